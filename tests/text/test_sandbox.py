"""Chat templates from strangers: they render as in transformers, cannot hang, fill the memory or reach anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fledge.core.errors import FledgeError
from fledge.core.nouns import Message
from fledge.text import renderer, sandbox
from fledge.text.template import render_text
from fledge.text.tokenizer import Tokenizer

HI = [Message("user", "hi {{ 7 * 7 }} señor 🙂"), Message("assistant", " hello\n"), Message("user", "and?")]

# In the manner of real ones: a default system message, namespaces, macros, loop controls, an error of its own.
FOREIGN = [
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] | upper + '] ' + m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[ASSISTANT] {% endif %}",
    "{%- set ns = namespace(n=0, system='Be kind.') -%}"
    "{%- macro turn(m) -%}<{{ m.role }}>{{ m.content }}{%- endmacro -%}"
    "{%- for m in messages -%}{%- if m.role == 'tool' -%}{%- continue -%}{%- endif -%}{%- set ns.n = ns.n + 1 -%}"
    "{{ ns.n ~ turn(m) }}{%- endfor -%}{{ ns.system }}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m | tojson(indent=1) }}{% endif %}{% endfor %}",
]

ENDLESS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
MEMORY = "needs more than 512 MiB"
BOMBS = {
    "{% for i in range(10**9) %}x{% endfor %}": "Range too big",
    "{{ 'a' * 10**10 }}": MEMORY,
    "{{ [0] * 10**9 }}": MEMORY,
    "{{ 'a'.center(10**10) }}": MEMORY,
    "{{ '%010000000000d' % 1 }}": MEMORY,
    "{{ '{:10000000000}'.format(1) }}": MEMORY,
    "{{ (1).to_bytes(10**10) }}": MEMORY,
    "{{ [1] | tojson(indent=10**9) }}": MEMORY,
    "{{ [1] | batch(10**9, 0) | list }}": MEMORY,
    "{{ ('a' * 99999).replace('', 'b' * 99999) }}": MEMORY,
    "{{ range(99999) | map('string') | join(',' * 99999) }}": MEMORY,
    "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}": "far more than it was given",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself too deeply",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "not valid Jinja: RecursionError",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ '{0.__class__.__mro__}'.format('') }}": "unsafe",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}": "unsafe",
    "{{ lipsum.__globals__['os'] }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{% import 'os' as os %}": "no loader",
    "{{ raise_exception('\x1b[31mred\n' * 999) }}": r"\?\[31mred \?\[31mred",
    "{% if %}": "not valid Jinja: line 1",
    "{{ 1 / 0 }}": "division by zero",
    ENDLESS: "more than 0.3 seconds",
}


@pytest.fixture(scope="module")
def learnt() -> Tokenizer:
    return Tokenizer.train(["system user assistant What does json.dumps do? " * 3], 300)


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.spec, tokenizer.config, template)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("template", FOREIGN)
def test_a_foreign_template_renders_as_in_transformers(
    learnt: Tokenizer, template: str, prompt: bool, tmp_path: Path
) -> None:
    tokenizer = with_template(learnt, template)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template([m.as_dict() for m in HI], tokenize=False, add_generation_prompt=prompt)
    assert render_text(tokenizer, HI, prompt) == expected


@pytest.mark.parametrize("template", BOMBS, ids=lambda text: text[:40])
def test_a_malicious_template_is_one_clear_line(
    learnt: Tokenizer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template == ENDLESS:
        monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    with pytest.raises(FledgeError, match=BOMBS[template]) as error:
        render_text(with_template(learnt, template), HI)
    assert len(error.value.message) < 500
    assert error.value.message.isprintable()
    assert "chat_template.jinja" in error.value.remedy
    monkeypatch.undo()  # and the next conversation is rendered as if nothing had been
    assert render_text(with_template(learnt, FOREIGN[1]), HI[:1]).startswith("1<user>hi")


def test_the_process_of_a_template_can_open_nothing_and_knows_nothing() -> None:
    """What an escape from Jinja's sandbox would find: no file, no socket, no process, no environment, little memory."""
    program = (
        "import os, socket, sys; sys.path.append(sys.argv[1]); import renderer; renderer.give_up_rights(); found = []\n"
        "for name, attempt in {'read': lambda: open('/etc/passwd'), 'write': lambda: open('/tmp/x', 'w'),\n"
        "    'socket': socket.socket, 'pipe': os.pipe, 'process': lambda: os.popen('id').read(),\n"
        "    'memory': lambda: bytearray(1 << 29)}.items():\n"
        "    try: attempt(); found.append(name)\n"
        "    except (OSError, MemoryError): pass\n"
        "print(found)"
    )
    place = str(Path(renderer.__file__).parent)
    run = subprocess.run([sys.executable, "-c", program, place], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    box = sandbox.sandbox_of(os.getpid())
    assert box.render("{{ 1 + 1 }}", {}) == {"text": "2"}
    assert box.process is not None
    environment = Path(f"/proc/{box.process.pid}/environ")
    if environment.exists():
        assert set(environment.read_bytes().split(b"\0")) <= {b"", f"TZ={os.environ.get('TZ')}".encode()}
        assert set(os.listdir(f"/proc/{box.process.pid}/fd")) == {"0", "1", "2"}


def test_a_template_of_our_own_needs_no_process(learnt: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "sandbox_of", None)
    assert "<|im_start|>user\nhi" in render_text(learnt, HI)


def test_a_forked_process_gets_a_sandbox_of_its_own(learnt: Tokenizer) -> None:
    tokenizer = with_template(learnt, FOREIGN[0])
    expected = render_text(tokenizer, HI)
    child = os.fork()
    if child == 0:  # both would read from one pipe
        try:
            same = all(render_text(tokenizer, HI) == expected for _ in range(20))
            sandbox.sandbox_of(os.getpid()).stop()
        finally:
            os._exit(0 if same else 1)
    assert all(render_text(tokenizer, HI) == expected for _ in range(20))
    assert os.waitpid(child, 0)[1] == 0
