"""The benchmark tasks, one module each; a module exports ``TASK``."""
