"""The agent of `tracer demo`: it answers questions about Python from the language reference.

Small, but nothing in it is made up: the text is what `help()` shows, the search is an SQLite
full-text index, and the "model" picks sentences by word overlap and says so.
"""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple, TypedDict

from tracer.default import (
    bind,
    chain,
    enrich_session,
    enrich_span,
    model,
    session,
    tool,
)

__all__ = ["Agent", "Asked", "Passage"]

STOPWORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "how",
        "i",
        "in",
        "is",
        "it",
        "many",
        "may",
        "not",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "you",
    ]
)
PASSAGES = 3  # topics read for one question
SENTENCES = 2  # of an answer
SHORTEST = 5  # words that carry meaning in a sentence worth quoting


class Passage(TypedDict):
    """A paragraph of a topic, and how well it fits: bm25, smaller is better."""

    topic: str
    text: str
    score: float


class Asked(NamedTuple):
    """A question, what the agent said, and the session that shows how it got there."""

    session_id: str
    question: str
    answer: str


class Agent:
    """Answer questions over the topics of the Python reference, indexed in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._index = directory / "topics.db"
        with closing(self._open()) as db, db:
            db.execute("CREATE VIRTUAL TABLE passage USING fts5(topic, text, tokenize='porter')")
            db.executemany(
                "INSERT INTO passage VALUES (?, ?)",
                (
                    (topic, " ".join(paragraph.split()))
                    for topic, text in topics.items()
                    for paragraph in text.split("\n\n")
                    if len(paragraph.split()) > 8
                ),
            )

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._index)

    @chain
    def plan(self, question: str) -> list[str]:
        """Turn a question into search queries: the words that carry it, and pairs of them."""
        words = _words(question)
        pairs = [f"{one} {other}" for one, other in pairwise(words)]
        return [" ".join(words), *pairs][:PASSAGES]

    @tool
    def search(self, query: str, limit: int = 3) -> list[Passage]:
        """Find the passages that fit best."""
        wanted = " OR ".join(f"{word}*" for word in query.split())
        with closing(self._open()) as db:
            rows = db.execute(
                "SELECT topic, text, bm25(passage) FROM passage WHERE passage MATCH ? "
                "ORDER BY 3 LIMIT ?",
                (wanted, limit),
            ).fetchall()
        return [{"topic": t, "text": x, "score": round(s, 3)} for t, x, s in rows]

    @tool
    def read(self, topic: str) -> str:
        """Read a topic as `help()` prints it, its underlined headings left out."""
        return _prose(topics[topic])

    @tool
    async def read_async(self, topic: str) -> str:
        """Read a topic without blocking the event loop."""
        return await asyncio.to_thread(_prose, topics[topic])

    def answer(self, question: str, texts: list[str]) -> str:
        """Pick the sentences that share most words with the question."""
        wanted = set(_words(question))
        messages = [{"role": "user", "content": question}]
        with model(
            "extractive-answer",
            inputs={"messages": messages, "context": texts},
            config={"model": "word-overlap", "provider": "none: no language model is called"},
        ) as span:
            sentences = [s for text in texts for s in re.split(r"(?<=[.:])\s+(?=[A-Z\"])", text)]
            best = sorted(
                dict.fromkeys(sentences), key=lambda s: _overlap(wanted, s), reverse=True
            )[:SENTENCES]
            content = " ".join(" ".join(best).split())
            span.set(
                outputs={"role": "assistant", "content": content},
                metrics={"sentences_read": len(sentences)},
                metadata={"note": "chosen by counting words; this is no language model"},
            )
        return content

    @chain
    def ask(self, question: str) -> str:
        """Plan, search, read, answer, one after the other."""
        found = [hit for query in self.plan(question) for hit in self.search(query)]
        return self.answer(question, [self.read(topic) for topic in _topics(found)])

    @chain
    async def ask_async(self, question: str) -> str:
        """Do the same, reading all topics at once on the event loop."""
        found = [hit for query in self.plan(question) for hit in self.search(query)]
        texts = await asyncio.gather(*(self.read_async(topic) for topic in _topics(found)))
        return self.answer(question, list(texts))

    @chain
    def ask_in_threads(self, question: str) -> str:
        """Do the same, searching in threads; `bind` carries the current span into them."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            hits = pool.map(bind(self.search), self.plan(question))
            found = [hit for group in hits for hit in group]
            texts = list(pool.map(bind(self.read), _topics(found)))
        enrich_span(metrics={"passages": len(found)})
        return self.answer(question, texts)

    @chain
    def fail(self, topic: str) -> str:
        """Read a topic that may not exist, so that the trace of an error can be seen too."""
        return self.read(topic)

    def run(self) -> list[Asked]:
        """Run every way of asking, each question in a session of its own."""
        asked: list[Asked] = []
        for question, ask in (
            ("How do I catch an exception?", self.ask),
            ("How does a generator yield a value?", self._ask_on_a_loop),
            ("Which names are visible in a nested function?", self.ask_in_threads),
        ):
            with session(question, inputs={"question": question}) as opened:
                answer = ask(question)
                enrich_session(outputs={"answer": answer})
            asked.append(Asked(opened.id, question, answer))
        with session("A topic that does not exist", metadata={"expected": "an error"}) as opened:
            try:
                answer = self.fail("monads")
            except KeyError:
                answer = "The reference has no such topic."
        asked.append(Asked(opened.id, "What is a monad?", answer))
        return asked

    def _ask_on_a_loop(self, question: str) -> str:
        return asyncio.run(self._two_at_once(question))

    async def _two_at_once(self, question: str) -> str:
        with chain("two questions at once") as span:
            first, second = await asyncio.gather(
                self.ask_async(question), self.ask_async("How does await suspend a coroutine?")
            )
            span.set(outputs={"answers": [first, second]})
        return first


def _topics(found: list[Passage]) -> list[str]:
    """Return the best topics, each once."""
    ranked = sorted(found, key=lambda hit: hit["score"])
    return list(dict.fromkeys(hit["topic"] for hit in ranked))[:PASSAGES]


def _prose(text: str) -> str:
    return " ".join(re.sub(r"^.*\n[*=~-]{3,}$", "", text, flags=re.MULTILINE).split())


def _overlap(wanted: set[str], sentence: str) -> float:
    """Score a sentence by the words it shares with the question, long ones and scraps less."""
    words = _words(sentence)
    shared = len(wanted & set(words))
    return shared / math.sqrt(len(words)) if len(words) >= SHORTEST else 0.0


def _words(text: str) -> list[str]:
    """Return the words that carry meaning, their commonest endings cut off."""
    words = (w for w in re.findall(r"[a-z]+", text.lower()) if w not in STOPWORDS)
    return [re.sub(r"(?<=..)(s|ed|ing)$", "", word) for word in words]
