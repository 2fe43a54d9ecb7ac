"""The engine's own llama.cpp server with a chat template that shows the model its tools; the model's own has none."""

from __future__ import annotations

import xllamacpp

from runtime.engines import llama_cpp_server

TEMPLATE = """\
{% if tools %}<|im_start|>system
Call a tool as <tool_call>{"name": name, "arguments": object}</tool_call>. Tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

parameters = xllamacpp.CommonParams


def with_tools() -> xllamacpp.CommonParams:
    """The server's parameters with this template."""
    made = parameters()
    made.chat_template = TEMPLATE
    return made


if __name__ == "__main__":
    xllamacpp.CommonParams = with_tools
    llama_cpp_server.main()
