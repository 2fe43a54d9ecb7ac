"""The sections of a card: their order in each house style, their headings in each language, and headings understood."""

from __future__ import annotations

import re
from typing import NamedTuple

from flagrelease.card.data import Block
from flagrelease.card.styles import Language, Style


class Heading(NamedTuple):
    """A block's heading: its level and its title in each language; further titles that published cards give it."""

    level: int
    en: str
    zh: str
    aliases: tuple[str, ...] = ()

    def title(self, language: Language) -> str:
        """The title as rendered in `language`."""
        return self.zh if language == "zh" else self.en


HEADINGS = {
    Block.INTRODUCTION: Heading(1, "Introduction", "简介"),
    Block.DEPLOYMENT: Heading(3, "Integrated Deployment", "集成部署"),
    Block.CONSISTENCY: Heading(3, "Consistency Validation", "一致性验证"),
    Block.OVERVIEW: Heading(1, "Technical Overview", "技术概览"),
    Block.FLAGSCALE: Heading(
        2,
        "**FlagScale Distributed Training and Inference Framework**",
        "**FlagScale 分布式训练与推理框架**",
        ("FlagScale", "FlagScale and vllm-plugin-fl"),
    ),
    Block.FLAGGEMS: Heading(
        2, "**FlagGems Universal Large-Model Operator Library**", "**FlagGems 通用大模型算子库**", ("FlagGems",)
    ),
    Block.FLAGTREE: Heading(2, "**FlagTree Unified Compiler**", "**FlagTree 统一编译器**", ("FlagTree",)),
    Block.FLAGCX: Heading(2, "**FlagCX Communication Library**", "**FlagCX 通信库**", ("FlagCX",)),
    Block.FLAGEVAL: Heading(2, "**FlagEval Evaluation Framework**", "**FlagEval 评测框架**", ("FlagEval",)),
    Block.EVALUATION: Heading(1, "Evaluation Results", "评测结果"),
    Block.RESULTS: Heading(2, "Benchmark Result", "基准测试结果", ("Benchmark Results", "Bechmark Result")),
    Block.VERIFICATION: Heading(2, "How this was verified", "如何验证"),
    Block.GUIDE: Heading(1, "User Guide", "使用指南", ("General Information", "Environment Setup")),
    Block.STEPS: Heading(2, "Operation Steps", "操作步骤"),
    Block.WEIGHTS: Heading(
        3, "Download Open-source Model Weights", "下载开源模型权重", ("Download Model Weights", "Download Weights")
    ),
    Block.IMAGE: Heading(3, "Download FlagOS Image", "下载 FlagOS 镜像", ("Download Image", "Pull the Image")),
    Block.START: Heading(
        3,
        "Start the inference service",
        "启动推理服务",
        ("Start the Container", "Start inference service", "Container Startup"),
    ),
    Block.PACKAGES: Heading(3, "Install", "安装"),
    Block.SERVE: Heading(3, "Serve", "提供服务", ("Start the Server", "Serving")),
    Block.INVOCATION: Heading(2, "Service Invocation", "服务调用"),
    Block.CLIENT: Heading(
        3, "API-based Invocation Script", "API 调用脚本", ("Invocation Script", "CURL-based Invocation Script")
    ),
    Block.ANYTHINGLLM: Heading(3, "AnythingLLM Integration Guide", "AnythingLLM 集成指南"),
    Block.INSTALL: Heading(4, "1. Download & Install", "1. 下载与安装"),
    Block.CONFIGURATION: Heading(4, "2. Configuration", "2. 配置"),
    Block.INTERACTION: Heading(4, "3. Model Interaction", "3. 与模型对话"),
    Block.CONTRIBUTING: Heading(1, "Contributing", "参与贡献"),
    Block.LICENCE: Heading(1, "License", "许可协议", ("Licence",)),
}

_LONGEST = 200
"""Characters of a title that are looked at; none of ours is longer."""

_CONTAINER = (Block.WEIGHTS, Block.IMAGE, Block.START, Block.SERVE)


def blocks_of(style: Style, steps: tuple[Block, ...] = _CONTAINER) -> list[Block]:
    """The blocks of a card in their order; `steps` are those under Operation Steps."""
    return [
        *(Block.INTRODUCTION, Block.DEPLOYMENT, Block.CONSISTENCY),
        *(Block.OVERVIEW, Block.FLAGSCALE, Block.FLAGGEMS, Block.FLAGEVAL),
        *(Block.EVALUATION, Block.RESULTS),
        *((Block.VERIFICATION,) if style is Style.VERIFIED else ()),
        *(Block.GUIDE, Block.STEPS, *steps),
        *(Block.INVOCATION, Block.CLIENT, Block.ANYTHINGLLM, Block.INSTALL, Block.CONFIGURATION, Block.INTERACTION),
        *(Block.CONTRIBUTING, Block.LICENCE),
    ]


def block_of(title: str) -> Block | None:
    """The block that a heading names, in any language and spelling known; none where it is not one of ours.

    What is added in brackets, as in `Operation Steps (version 2)`, does not matter.
    """
    return _BY_TITLE.get(_plain(title))


def _plain(title: str) -> str:
    """A title without marks, additions in brackets and case."""
    text = re.sub(r"[(（【\[].*?[)）】\]]", " ", title[:_LONGEST])
    return " ".join(re.sub(r"[*_`#:：]", " ", text).casefold().split())


_BY_TITLE = {
    _plain(title): block for block, heading in HEADINGS.items() for title in (heading.en, heading.zh, *heading.aliases)
}
