"""Puts Saddle-Free Guidance into every official template of the host's page that takes it; the host validates it.

    python quickstart.py --run tests/official_templates.py

prints how many there are, how many take our node, in how many of them inside a subgraph, and each new complaint of the
host. Exit code 1 if there is one. About five minutes; needs the browser of the tests of the page.
"""

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import official_graphs as official
import page as driver
from host import Host


def main():
    quickstart = driver.load_quickstart()
    if quickstart.find_browser() is None:
        sys.exit(f"official_templates: none of {', '.join(quickstart.BROWSERS)} is on the PATH.")
    with driver.served(quickstart) as address, driver.opened(quickstart.find_browser()) as tab:
        prompts = official.collected(tab, address)
    taken = {name: prompts[name] for name in prompts if official.ours(prompts[name][1])}
    with tempfile.TemporaryDirectory() as base:
        host = Host(Path(base))
        logging.disable()  # of the files that every template lacks here
        against = {name: official.added_complaints(host, *pair) for name, pair in taken.items()}
    within = [name for name in taken if any(":" in key for key in official.ours(taken[name][1]))]
    nodes = sum(len(official.ours(guided)) for _, guided in taken.values())
    print(f"official templates:          {len(prompts)}")
    print(f"take Saddle-Free Guidance:   {len(taken)}, {nodes} nodes")
    print(f"  inside a subgraph:         {len(within)}")
    print(f"  with a new complaint:      {sum(map(bool, against.values()))}")
    for name, complaints in against.items():
        for kind, error, details in complaints:
            print(f"{name}: {kind}: {error}: {details}")
    return int(any(against.values()))


if __name__ == "__main__":
    sys.exit(main())
