"""Known vulnerabilities of what is installed beside this package, by pip-audit: none, some, or nothing could be asked.

pip-audit ends well when no service knows the packages that it asks for, as on a machine without the internet or behind a
package mirror. Here that is a failure with a sentence, so that nobody takes silence for safety.

Exit codes: 0 none is known, 1 some are, 69 something could not be asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

CLEAN, VULNERABLE, UNASKED = 0, 1, 69


def verdict(document: dict[str, Any]) -> tuple[int, str]:
    """The exit code, and what to print, for the JSON that pip-audit wrote."""
    packages = document["dependencies"]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    unasked = [package["name"] for package in packages if "skip_reason" in package]
    if found:
        return VULNERABLE, "\n".join(found)
    if unasked:
        asked = len(packages) - len(unasked)
        return UNASKED, (
            f"not audited: {len(unasked)} of {len(packages)} packages ({', '.join(sorted(unasked)[:5])} …) could not be asked"
            f" for, and {asked} have no known vulnerability. Run it where the internet can be reached."
        )
    return CLEAN, f"{len(packages)} packages, no known vulnerability"


def main(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    try:
        code, said = verdict(json.loads(done.stdout))
    except (ValueError, KeyError):
        # It wrote no document: the service could not be reached at all.
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        code, said = UNASKED, f"not audited: pip-audit could not ask its vulnerability service ({last[0][:300]})"
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
