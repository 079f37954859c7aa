"""Static SASRec and GRU4Rec beside those of RecBole, a respected library: same split, same samples, same ranking."""

from benchmarks.recbole.comparison import main

__all__ = ["main"]
