#!/bin/sh
# curl alone: `sh curl.sh URL MODEL`.
set -eu
say() { path=$1; shift; curl --silent --show-error --fail-with-body --max-time 60 "$URL$path" "$@"; }
URL=$1 MODEL=$2
say /v1/models | grep --quiet "\"$MODEL\""
say /v1/completions -d "{\"model\": \"$MODEL\", \"prompt\": \"def\", \"max_tokens\": 3}" | grep --quiet '"text_completion"'
say /v1/chat/completions --no-buffer -d "{\"model\": \"$MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 3, \"stream\": true}" | grep --quiet --line-regexp 'data: \[DONE\]'
say /v1/embeddings --json "{\"model\": \"$MODEL\", \"input\": \"def\"}" | grep --quiet '"embedding"'
echo '{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}' | say /v1/files -F purpose=batch -F 'file=@-;filename=in.jsonl' | grep --quiet '"in.jsonl"'
! say /v1/completions -d '{"model": "absent"}' > /dev/null 2>&1
