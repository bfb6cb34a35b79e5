"""What was measured, in a file that a broken-off run goes on with, and tables in pages written anew from it."""

import json
import re
import statistics

from tqdm import tqdm


def read(file):
    """The lines of a file of results, each a dict."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def known(lines, settings):
    """The last line that was measured with these settings, a dict, or None."""
    return next((line for line in reversed(lines) if settings.items() <= line.items()), None)


def measure(file, work):
    """Measures what is not in the file yet and adds it line by line. work: pairs of settings and what measures them."""
    lines = read(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    for settings, measured in tqdm([each for each in work if known(lines, each[0]) is None], unit="set"):
        line = settings | measured()
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(line) + "\n")


def forget(file, work):
    """Takes the lines of some settings out of the file, so that they are measured again."""
    kept = [line for line in read(file) if not any(settings.items() <= line.items() for settings, _ in work)]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def cell(values, digits):
    """Mean of the values, and spread where there are several and it is not zero."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {spread:.{digits}f}" if round(spread, digits) else "")


def write_between(path, name, text):
    """Writes text anew between `<!-- name -->` and `<!-- end of name -->` in a file; ValueError where it has none."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    content = path.read_text(encoding="utf-8")
    if start not in content or end not in content:
        raise ValueError(f"{path.name} has no lines {start.strip()} and {end}; add both where the table is to be.")
    pattern = f"{re.escape(start)}.*?{re.escape(end)}"
    path.write_text(re.sub(pattern, lambda _: f"{start}{text}\n{end}", content, flags=re.DOTALL), encoding="utf-8")
