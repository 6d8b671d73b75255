"""The book's figures, drawn from the very tensors and events that a cell holds."""

import matplotlib.pyplot as plt

from book.figures.batch import (
    draw_batch, draw_permutation, draw_strips, draw_programs, draw_scan)
from book.figures.checker import draw_catches, draw_levels
from book.figures.kernels import (
    draw_column_tiles, draw_expand_program, draw_lanes, draw_layout, draw_sms, draw_tiles,
    draw_to_scale)
from book.figures.recordings import draw_recording
from book.figures.style import NONE_COLOR, WAY_COLORS, color_of
from book.figures.times import (
    draw_parts, draw_ways, draw_curves, draw_launches, draw_streams, draw_timeline)
