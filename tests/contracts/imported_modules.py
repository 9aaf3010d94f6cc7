"""Run by the enclave's own environment under `python -I`: import every enclave module and print what is loaded then.

Modules of ours by their full name, others by their top-level package. The first argument is the tree.
"""

import importlib
from pathlib import Path
import sys

tree = Path(sys.argv[1])
sys.path.insert(0, str(tree))
before = {name.partition(".")[0] for name in sys.modules} - {"pathlib"}
for path in sorted((tree / "enclave").rglob("*.py")):
    name = ".".join(path.relative_to(tree).with_suffix("").parts)
    if not name.endswith(".__main__"):
        importlib.import_module(name.removesuffix(".__init__"))
found = {name if name.partition(".")[0] in ("enclave", "wire") else name.partition(".")[0] for name in sys.modules}
print("\n".join(sorted(found - {"__main__"})))
