"""A long run of schemathesis against a server of yours: thousands of requests made from its OpenAPI schema, no 5xx.

fledge serve runs/pydoc --port 8000 &
python benchmarks/fuzz_serve.py http://127.0.0.1:8000 [EXAMPLES]
"""

import subprocess
import sys

if __name__ == "__main__":
    url, examples = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "300"
    run = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", examples]
    only = ["--wait-for-schema", "30", "--include-path-regex", "^/(v1|tokenize|detokenize|health)"]
    sys.exit(subprocess.call([sys.executable, "-c", run, "run", f"{url}/openapi.json", *options, *only]))
