"""Checkers for the book's exercises. Each says what went wrong, for which batch, or that it passed.

One file a chapter. Every checker is tested against the solution and against wrong answers that
readers give.
"""

from book.exercises.common import batches
from book.exercises.one_layer import check_break_even, check_padded_rows, check_masked
from book.exercises.segments import check_to_places, check_seg_indptr, check_chunks
from book.exercises.shrink import check_masked_rows, check_programs, check_add_planes
from book.exercises.expand import check_tile_columns, check_unpack, check_add_scaled
from book.exercises.routing import check_place_of, check_permutation, check_tile_table
from book.exercises.why_graphs import check_saved, check_waits, check_paid_off
from book.exercises.recorder import check_predictions, check_scale_rows, check_external
from book.exercises.loud_rules import check_pick, check_diagnose, check_warm_up
from book.exercises.silent_rules import evidence, check_rules, check_server, check_tail
from book.exercises.runner import check_best_buckets, check_refresh, check_fills
from book.exercises.sync_bug import check_reset, check_routing
from book.exercises.laptop import check_doors, check_repair, check_second_batch
from book.exercises.grid import check_grid, check_two_batches
from book.exercises.systems import Server, check_faults, check_graphs, check_pack
from book.exercises.branch import check_branch, check_branches
from book.exercises.first import check_first, check_remembers
from book.exercises.half import check_certain, check_half
from book.exercises.neighbour import check_neighbour, check_late
from book.exercises.recycled import check_keep, check_recycled
from book.exercises.cold import check_cold, check_refused
from book.exercises.question import check_asks, check_question
from book.exercises.pool import check_pool, check_wrong_reads
from book.exercises.guest import check_guest, check_lost
from book.exercises.open import check_nan_flags, check_sealed, sealed
from book.exercises.fast import check_early, check_floor, check_masks
from book.exercises.overlap import check_best, check_forked, check_longest_path
