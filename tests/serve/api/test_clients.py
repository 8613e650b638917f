"""Other people's clients: litellm, langchain, curl, and OpenAI's for Node."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ASKED = [{"role": "user", "content": "Where is the zebra?"}]


def test_litellm(url: str) -> None:
    litellm = pytest.importorskip("litellm", reason="pip install litellm")
    options = {"model": "openai/tiny", "api_base": f"{url}/v1", "api_key": "none", "messages": ASKED, "max_tokens": 8}
    answer = litellm.completion(**options, seed=1)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, seed=1, stream=True))
    assert text == answer.choices[0].message.content
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**options | {"max_tokens": 5000})


def test_langchain(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    chat = langchain.ChatOpenAI(model="wide", base_url=f"{url}/v1", api_key="none", max_tokens=120, seed=1)
    assert "".join(str(chunk.content) for chunk in chat.stream("Where?")) == chat.invoke("Where?").content

    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    called = chat.bind_tools([weather], tool_choice="weather").invoke("?")
    assert called.tool_calls or called.invalid_tool_calls
    vectors = langchain.OpenAIEmbeddings(
        model="tiny", base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert len(vectors.embed_query("zebra")) == 64


def test_curl(url: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    body = json.dumps({"model": "tiny", "messages": ASKED, "max_tokens": 4, "stream": True})
    command = ["curl", "-sN", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines[:-1])


@pytest.fixture(scope="module")
def modules(pytestconfig: pytest.Config) -> Path:
    """A folder with the npm package `openai`, kept in pytest's cache; or the one that FLEDGE_NODE_MODULES names."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if given := os.environ.get("FLEDGE_NODE_MODULES"):
        return Path(given)
    assert pytestconfig.cache is not None
    where = pytestconfig.cache.mkdir("node")
    if not (where / "node_modules" / "openai" / "package.json").is_file():
        if not (npm := shutil.which("npm")):
            pytest.skip("npm is not installed, and FLEDGE_NODE_MODULES is not set")
        command = [npm, "install", "--prefix", str(where), "--no-fund", "--no-audit", "--silent", "openai@6"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=90, cwd=where)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("npm cannot install openai here, and FLEDGE_NODE_MODULES is not set")
    return where


def test_the_openai_client_for_node(url: str, tmp_path: Path, modules: Path) -> None:
    script = tmp_path / "ask.mjs"
    script.write_text(f"""
import {{ createRequire }} from "node:module";
const OpenAI = createRequire("{modules}/").call(null, "openai");
const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: "none" }});
const options = {{ model: "tiny", messages: [{{ role: "user", content: "Where?" }}], max_tokens: 8, seed: 1 }};
const whole = await client.chat.completions.create(options);
let text = "";
for await (const chunk of await client.chat.completions.create({{ ...options, stream: true }}))
  text += chunk.choices[0]?.delta?.content ?? "";
if (text !== whole.choices[0].message.content) throw new Error("the stream differs");
console.log((await client.models.list()).data.map((model) => model.id).join(" "));
""")
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["tiny", "wide"]
