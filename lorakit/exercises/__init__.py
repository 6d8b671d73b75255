"""Checkers for the book's exercises. Each says what went wrong, for which batch, or that it passed.

One file a chapter. Every checker is tested against the solution and against wrong answers that
readers give.
"""

from lorakit.exercises.common import batches
from lorakit.exercises.one_layer import check_break_even, check_padded_rows, check_masked
from lorakit.exercises.segments import check_to_places, check_seg_indptr, check_chunks
from lorakit.exercises.shrink import check_masked_rows, check_programs, check_add_planes
from lorakit.exercises.expand import check_tile_columns, check_unpack, check_add_scaled
from lorakit.exercises.routing import check_place_of, check_permutation, check_tile_table
from lorakit.exercises.sync_bug import check_reset, check_routing
