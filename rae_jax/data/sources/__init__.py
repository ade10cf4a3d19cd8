"""Random-access sources of labelled images.

A source has a length, a stable `repr`, and gives records: `image` uint8 [H, W, 3], `label` int32,
`index` int64 (its place in the source).
"""
