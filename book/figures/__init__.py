"""The book's figures, drawn from the very tensors and events that a cell holds."""

import matplotlib.pyplot as plt

from book.figures.batch import (
    draw_batch, draw_permutation, draw_strips, draw_programs, draw_scan)
from book.figures.branch import draw_graphs
from book.figures.checker import draw_catches, draw_levels
from book.figures.fast import draw_over_base, draw_panels, draw_ratios
from book.figures.first import draw_kept
from book.figures.grid import draw_launched
from book.figures.half import draw_loads
from book.figures.neighbour import draw_failures, draw_whose
from book.figures.cold import draw_lives
from book.figures.kernels import (
    draw_column_tiles, draw_expand_program, draw_lanes, draw_layout, draw_sms, draw_tiles,
    draw_to_scale)
from book.figures.question import draw_waits
from book.figures.open import draw_signatures
from book.figures.overlap import draw_arrangements, draw_dependences
from book.figures.pool import draw_pool
from book.figures.recordings import draw_recording
from book.figures.recycled import draw_taken
from book.figures.style import NONE_COLOR, WAY_COLORS, color_of
from book.figures.systems import draw_choices
from book.figures.times import (
    draw_parts, draw_ways, draw_curves, draw_launches, draw_streams, draw_timeline)
