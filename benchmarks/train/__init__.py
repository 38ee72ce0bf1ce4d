"""The parts of bench_train.py."""
