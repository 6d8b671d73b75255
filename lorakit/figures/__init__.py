"""The book's figures, drawn from the very tensors and events that a cell holds."""

import matplotlib.pyplot as plt

from lorakit.figures.batch import (
    draw_batch, draw_permutation, draw_strips, draw_programs, draw_scan)
from lorakit.figures.kernels import (
    draw_column_tiles, draw_expand_program, draw_lanes, draw_layout, draw_sms, draw_tiles,
    draw_to_scale)
from lorakit.figures.style import NONE_COLOR, WAY_COLORS, color_of
from lorakit.figures.times import draw_parts, draw_ways, draw_curves, draw_launches, draw_timeline
