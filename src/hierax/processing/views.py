"""The numbers of clips and crops in which a video is seen."""


def check_views(views: tuple[int, int]) -> tuple[int, int]:
    """`views`, if they are two numbers above 0; else raises `ValueError`."""
    if (
        not isinstance(views, (tuple, list))
        or len(views) != 2
        or not all(isinstance(count, int) and count > 0 for count in views)
    ):
        raise ValueError(f"views is {views!r}; expected the numbers of clips and crops, such as (5, 3)")
    return views
