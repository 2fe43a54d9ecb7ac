"""Questions about tools, made from a seed: eight tools whose schemas grow harder, and when to leave them alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

NEEDED = 0.6
"""Share of the questions that need an offered tool; of the others half need one that is not offered, half need none."""
MOST_OFFERED = 4

CITIES = "Paris Madrid Oslo Vienna Lisbon Prague Dublin Athens Warsaw Helsinki Cairo Nairobi Lima Toronto Osaka".split()
CURRENCIES = ["USD", "EUR", "GBP", "JPY", "CHF", "CNY"]
NAMES = "Alice Bruno Chiara Dmitri Elena Farid Greta Hiroshi Ines Jonas Kofi Lucia".split()
TASKS = ["the pasta", "the laundry", "a short break", "the oven", "the interview", "green tea", "yoga", "the meeting"]
TITLES = ["Budget review", "Team lunch", "Design workshop", "Site visit", "Hiring panel", "Release planning"]
RESTAURANTS = ["Luna", "The Olive Tree", "Sakura", "Old Mill", "Bistro Nine", "Casa Verde", "Harbour House"]
PRODUCTS = ["notebook", "stapler", "desk lamp", "marker", "ring binder", "calculator"]
STREETS = ["Mill Lane", "High Street", "Station Road", "Park Avenue", "Bridge Street", "Garden Way"]
METRICS = ["revenue", "orders", "refunds", "visitors"]
DIMENSIONS = {
    "country": ["France", "Japan", "Peru"],
    "channel": ["web", "phone", "shop"],
    "product": ["notebook", "stapler", "marker"],
    "month": ["March", "June", "October"],
}
TOPICS = (
    "photosynthesis; gravity; the water cycle; inflation; a haiku; the Silk Road; plate tectonics; a prime number; "
    "evaporation; the Renaissance; an eclipse; friction; democracy; a metaphor; the food chain; magnetism; a volcano; "
    "the alphabet; a symphony; a compass; recycling; the seasons; a lever; the heartbeat; a rainbow; fermentation; "
    "the printing press; a fossil; tides; a sonnet; a vaccine; erosion; an atom; a proverb; the Bronze Age"
).split("; ")

Made = tuple[str, dict[str, Any]]
"""A request in words, and arguments that fulfil it."""


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    """Schema of an object that has these fields and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(of: Mapping[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": dict(of), "minItems": 1, **limits}


TEXT = {"type": "string", "minLength": 1}
DATE = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "description": "YYYY-MM-DD"}
TIME = {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$", "description": "HH:MM, 24 hours"}


def _choice(options: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": options}


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    "get_weather": (
        "Current weather of a city.",
        _object(["city"], city=TEXT, unit=_choice(["celsius", "fahrenheit"])),
    ),
    "set_timer": (
        "Start a countdown that rings when it ends.",
        _object(["minutes"], minutes=_whole(1, 180), label=TEXT),
    ),
    "convert_currency": (
        "Convert an amount of money at today's rate.",
        _object(
            ["amount", "source", "target"],
            amount={"type": "number", "exclusiveMinimum": 0},
            source=_choice(CURRENCIES),
            target=_choice(CURRENCIES),
        ),
    ),
    "search_flights": (
        "Find flights between two cities on a date.",
        _object(
            ["origin", "destination", "date", "passengers"],
            origin=TEXT,
            destination=TEXT,
            date=DATE,
            passengers=_whole(1, 9),
            cabin=_choice(["economy", "premium", "business"]),
        ),
    ),
    "create_event": (
        "Put an event into the calendar and invite people.",
        _object(
            ["title", "date", "start", "duration_minutes", "attendees"],
            title=TEXT,
            date=DATE,
            start=TIME,
            duration_minutes={"type": "integer", "minimum": 15, "maximum": 480, "multipleOf": 15},
            attendees=_list(TEXT, uniqueItems=True),
        ),
    ),
    "book_table": (
        "Reserve a table in a restaurant.",
        _object(
            ["restaurant", "date", "time", "party_size", "contact"],
            restaurant=TEXT,
            date=DATE,
            time=TIME,
            party_size=_whole(1, 20),
            contact=_object(["name"], name=TEXT, phone={"type": "string", "pattern": "^[0-9]{7,12}$"}),
        ),
    ),
    "place_order": (
        "Order office products for delivery to an address.",
        _object(
            ["products", "delivery"],
            products=_list(_object(["name", "quantity"], name=_choice(PRODUCTS), quantity=_whole(1, 100))),
            delivery=_object(
                ["street", "city", "postcode"],
                street=TEXT,
                city=TEXT,
                postcode={"type": "string", "pattern": "^[0-9]{5}$"},
            ),
            express={"type": "boolean"},
        ),
    ),
    "run_report": (
        "Report on a metric of the shop, grouped and filtered.",
        _object(
            ["metric", "group_by", "period", "filters"],
            metric=_choice(METRICS),
            group_by=_list(_choice(list(DIMENSIONS)), maxItems=2, uniqueItems=True),
            period=_object(["first", "last"], first=DATE, last=DATE),
            filters=_list(
                _object(
                    ["field", "operator", "value"],
                    field=_choice(list(DIMENSIONS)),
                    operator=_choice(["equals", "not_equals"]),
                    value=TEXT,
                )
            ),
        ),
    ),
}

ALIKE = [{"book_table", "create_event"}, {"set_timer", "create_event"}]
"""Tools of which one could pass for the other: where one is needed and not offered, neither is the other."""


def _date(source: random.Random) -> str:
    return f"2027-{source.randint(1, 12):02d}-{source.randint(1, 28):02d}"


def _time(source: random.Random) -> str:
    return f"{source.randint(8, 21):02d}:{source.choice(['00', '15', '30', '45'])}"


def _weather(source: random.Random) -> Made:
    city, unit = source.choice(CITIES), source.choice(["celsius", "fahrenheit"])
    return f"What is the weather in {city} right now, in degrees {unit}?", {"city": city, "unit": unit}


def _timer(source: random.Random) -> Made:
    minutes, task = source.randint(1, 180), source.choice(TASKS)
    return f"Set a timer of {minutes} minutes for {task}.", {"minutes": minutes, "label": task}


def _currency(source: random.Random) -> Made:
    amount, (first, second) = source.randint(5, 5000), source.sample(CURRENCIES, 2)
    wanted = {"amount": amount, "source": first, "target": second}
    return f"How much are {amount} {first} in {second} today?", wanted


def _flights(source: random.Random) -> Made:
    (origin, destination), date = source.sample(CITIES, 2), _date(source)
    passengers, cabin = source.randint(2, 9), source.choice(["economy", "premium", "business"])
    return (
        f"Find flights from {origin} to {destination} on {date} for {passengers} passengers in {cabin} class.",
        {"origin": origin, "destination": destination, "date": date, "passengers": passengers, "cabin": cabin},
    )


def _event(source: random.Random) -> Made:
    title, date, start = source.choice(TITLES), _date(source), _time(source)
    minutes, people = 15 * source.randint(1, 12), source.sample(NAMES, source.randint(2, 4))
    return (
        f'Put "{title}" into my calendar on {date} at {start}, {minutes} minutes long, and invite '
        f"{', '.join(people[:-1])} and {people[-1]}.",
        {"title": title, "date": date, "start": start, "duration_minutes": minutes, "attendees": people},
    )


def _table(source: random.Random) -> Made:
    restaurant, date, time = source.choice(RESTAURANTS), _date(source), _time(source)
    people, name, phone = source.randint(2, 12), source.choice(NAMES), str(source.randint(10**8, 10**9 - 1))
    return (
        f"Reserve a table for {people} at the restaurant {restaurant} on {date} at {time}. "
        f"It is for {name}, phone {phone}.",
        {
            "restaurant": restaurant,
            "date": date,
            "time": time,
            "party_size": people,
            "contact": {"name": name, "phone": phone},
        },
    )


def _order(source: random.Random) -> Made:
    products = [
        {"name": name, "quantity": source.randint(2, 60)} for name in source.sample(PRODUCTS, source.randint(1, 3))
    ]
    street, city = f"{source.randint(1, 99)} {source.choice(STREETS)}", source.choice(CITIES)
    postcode, express = str(source.randint(10000, 99999)), source.random() < 0.5  # noqa: PLR2004 - as often as not
    listed = ", ".join(f"{product['name']} (quantity {product['quantity']})" for product in products)
    return (
        f"Order these products: {listed}. Deliver them to {street}, {postcode} {city}"
        f"{', by express' if express else ', no hurry'}.",
        {
            "products": products,
            "delivery": {"street": street, "city": city, "postcode": postcode},
            "express": express,
        },
    )


def _report(source: random.Random) -> Made:
    metric, (first, second, third) = source.choice(METRICS), source.sample(list(DIMENSIONS), 3)
    year, value = source.randint(2019, 2026), source.choice(DIMENSIONS[third])
    return (
        f"Run a report of {metric} from {year}-01-01 to {year}-12-31, grouped by {first} and {second}, "
        f"only where {third} equals {value}.",
        {
            "metric": metric,
            "group_by": [first, second],
            "period": {"first": f"{year}-01-01", "last": f"{year}-12-31"},
            "filters": [{"field": third, "operator": "equals", "value": value}],
        },
    )


def _chat(source: random.Random) -> str:
    pattern = source.choice(
        ["Explain {} in one sentence.", "What comes to your mind first about {}?", "Tell a child what {} means."]
    )
    return pattern.format(source.choice(TOPICS))


REQUESTS: dict[str, Callable[[random.Random], Made]] = {
    "get_weather": _weather,
    "set_timer": _timer,
    "convert_currency": _currency,
    "search_flights": _flights,
    "create_event": _event,
    "book_table": _table,
    "place_order": _order,
    "run_report": _report,
}


def tool_calls(seed: int, items: int) -> list[dict[str, Any]]:
    """Requests to a model that is offered one to four tools; `NEEDED` of them need one of these, the tools in turn.

    A question has `kind` (tool, not_offered, chat), `messages` and `tools` as chat completions take them, `expected`
    (name of the one tool to call; None: no call) and `arguments` (some that fulfil the request, or None). There are
    enough distinct requests for 250 items.
    """
    source = random.Random(seed)  # noqa: S311 - not cryptography
    needed = round(NEEDED * items)
    without = (items - needed) // 2
    kinds = ["tool"] * needed + ["not_offered"] * without + ["chat"] * (items - needed - without)
    questions: dict[str, dict[str, Any]] = {}
    while len(questions) < items:
        kind, tool = kinds[len(questions)], list(REQUESTS)[len(questions) % len(REQUESTS)]
        text, arguments = (_chat(source), None) if kind == "chat" else REQUESTS[tool](source)
        if text in questions:
            continue
        offered = _offered(source, kind, tool)
        questions[text] = {
            "kind": kind,
            "messages": [{"role": "user", "content": text}],
            "tools": [_as_tool(name) for name in offered],
            "expected": tool if kind == "tool" else None,
            "arguments": arguments if kind == "tool" else None,
        }
    shuffled = list(questions.values())
    source.shuffle(shuffled)
    return shuffled


def _offered(source: random.Random, kind: str, tool: str) -> list[str]:
    """Names of the tools that a question offers, in any order."""
    others = [name for name in SCHEMAS if name != tool]
    if kind == "not_offered":
        others = [name for name in others if {name, tool} not in ALIKE]
    if kind != "tool":
        return source.sample(others, source.randint(1, MOST_OFFERED))
    offered = [tool, *source.sample(others, source.randint(0, MOST_OFFERED - 1))]
    source.shuffle(offered)
    return offered


def _as_tool(name: str) -> dict[str, Any]:
    description, parameters = SCHEMAS[name]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
