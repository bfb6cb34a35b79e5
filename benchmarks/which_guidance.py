"""The pictures and figures of docs/which-guidance.md: the same labels and noise with each guidance.

    python quickstart.py --run benchmarks/which_guidance.py
    python quickstart.py --run benchmarks/which_guidance.py --pictures

draws a sheet of 16 emoji for each guidance into docs/guidance/, measures what is missing in the file of quality.py, and
writes the page's table. --pictures and --table do one of the two; --again measures saddle-free rows anew.
"""

import argparse

import quality
import results
from measuring import drawn
from pack import ROOT
from PIL import Image

PAGE = ROOT / "docs" / "which-guidance.md"
SHEETS = ROOT / "docs" / "guidance"
ACROSS, COUNT, ENLARGED = 8, 16, 2
SEED = 0  # of the noise; the labels are the first of quality.py's
ROWS = {  # file -> row of quality.py
    "none": "no guidance", "cfg": "CFG 2", "saddle-free": "saddle-free 8, automatic", "auto": "auto-guidance 2",
    "both": "saddle-free 8, automatic + auto-guidance 1.5", "pag": "PAG 1",
}
COLUMNS = {"FD": "distance", "recall": "recall", "accuracy": "as asked", "evaluations per image": "evaluations"}
STEPS = (8, 24)


def arguments_of(options, steps, **more):
    """What quality.py measures the page's rows with."""
    given = ["--model", "emoji", "--task", "conditional", "--dtype", "bfloat16"]
    arguments = quality.parsed([*given, "--samples", str(options.samples), "--seeds", str(options.seeds)])
    return argparse.Namespace(**(vars(arguments) | {"steps": steps, "again": options.again} | more))


def write_sheets(options):
    """Draws the same noise and labels with each guidance."""
    import torch

    SHEETS.mkdir(exist_ok=True)
    arguments = arguments_of(options, STEPS[-1])
    models, _, _ = quality.prepare("emoji", "float32")
    rows = {row.name: row for row in quality.methods("conditional")}
    classes = quality.DEMOS["emoji"].classes(COUNT)
    for name, row in ROWS.items():
        images, _ = drawn(rows[row], models, COUNT, arguments, classes=classes, seed=SEED)
        lines = [torch.cat(list(line), dim=2) for line in images.split(ACROSS)]
        sheet = (torch.cat(lines, dim=1).movedim(0, -1) / 2 + 0.5).mul(255).round().byte().numpy()
        picture = Image.fromarray(sheet)
        picture = picture.resize((ENLARGED * picture.width, ENLARGED * picture.height), Image.BICUBIC)
        picture.save(SHEETS / f"{name}.jpg", quality=80, optimize=True)
        print(f"Written: docs/guidance/{name}.jpg, {row}")


def write_table(options):
    """Measures what is missing and writes the table of few columns."""
    lines = ["| guidance | steps | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for steps in STEPS:
        arguments = arguments_of(options, steps)
        rows = quality.rows_of("conditional", list(ROWS.values()))
        work = quality.work(rows, arguments)
        if options.again:
            results.forget(arguments.results, [each for each in work if "saddle-free" in each[0]["row"]])
        if not options.print:
            results.measure(arguments.results, work)
        found = quality.measured_rows(rows, arguments)
        for row in ROWS.values():
            cells = [
                results.cell(found[row][column], quality.DIGITS.get(column, 2)) if row in found else "not measured yet"
                for column in COLUMNS
            ]
            lines.append(f"| {row} | {steps} | {' | '.join(cells)} |")
    results.write_between(PAGE, "figures", "\n".join(lines))
    print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="only draw the sheets")
    parser.add_argument("--table", action="store_true", help="only measure what is missing and write the table")
    parser.add_argument("--print", action="store_true", help="write the table from what has been measured, and measure nothing")
    parser.add_argument("--again", action="store_true", help="measure the rows with saddle-free guidance anew")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not (options.table or options.print):
        write_sheets(options)
    if not options.pictures:
        write_table(options)


if __name__ == "__main__":
    main()
