"""What an artist types and sees: lists of values, the live trace, plots, grids, and how variations are sorted."""
