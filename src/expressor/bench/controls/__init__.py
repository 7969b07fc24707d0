"""Controls of tasks that predict expression of spots: what any method must be shown against."""

from expressor.bench.controls.ridge import EncoderRidge as EncoderRidge
from expressor.bench.controls.trivial import GeneMean as GeneMean
from expressor.bench.controls.trivial import LibrarySize as LibrarySize
