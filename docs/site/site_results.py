"""Tables of studies, from their results.json in docs/results."""


def with_tables(text: str, origin: str) -> str:
    return text
