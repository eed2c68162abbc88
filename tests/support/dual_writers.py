"""Concurrent writers to wide columns and JSON groups, who write down in an oracle what they did."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from typing import Any

import psycopg2

from profiles_schema.schema.traits import TraitColumn, trait_columns
from support import Database
from support.trait_columns import GROUPS, HELD, NOT_HELD, at, held

TRAITS = trait_columns()
OF_GROUP = {group: [trait for trait in TRAITS if trait.group == group] for group in GROUPS}
WITH_PARENT = [trait for trait in TRAITS if len(trait.path) == 2]
CONFIDENCE = next(trait for trait in TRAITS if trait.name == "appearance_confidence")


def prepare(database: Database, profiles: int, seed: int) -> list[str]:
    """Profiles with made-up values in their columns and no JSON, and the oracle that knows the values."""
    chance = random.Random(seed)
    database.script(
        f"insert into auth.users (email) select g || '@example.org' from generate_series(1, {profiles}) as g;"
        "create schema oracle;"
        "create table oracle.cells (user_id uuid, name text, image text, json jsonb, primary key (user_id, name))"
    )
    users = [user for (user,) in database.run("select user_id::text from public.user_profiles order by user_id")]
    connection = psycopg2.connect(database.url)
    with connection, connection.cursor() as cursor:
        cursor.execute("set local profiles_internal.normalizing = 'skip'")
        for user in users:
            values = {trait: held(trait, chance) for trait in TRAITS}
            assignments = ", ".join(f"{trait.name} = cast(%s as {trait.data_type})" for trait in TRAITS)
            empty = ", ".join(f"{group} = null" for group in GROUPS)
            cursor.execute(
                f"update public.user_profiles set {assignments}, {empty} where user_id = %s",
                [*(image for image, _ in values.values()), user],
            )
            cursor.execute(
                "insert into oracle.cells select %s, c.* from unnest(%s, %s, %s::jsonb[]) as c",
                [user, [t.name for t in TRAITS], [i for i, _ in values.values()], [j for _, j in values.values()]],
            )
    connection.close()
    return users


class Writer:
    """One application server: a connection that stays, over all phases."""

    def __init__(self, database: Database, users: list[str], seed: str) -> None:
        self.users = users
        self.chance = random.Random(seed)
        self.connection = psycopg2.connect(database.url)
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()

    def write(self, kinds: tuple[str, ...], users: int | None, stop: threading.Event) -> None:
        """Write, one transaction after the other, each to one profile: so no two writers wait for each other."""
        while not stop.is_set():
            kind = self.chance.choice(kinds)
            user = self.chance.choice(self.users[:users])
            try:
                with self.connection, self.connection.cursor() as self.cursor:
                    getattr(self, kind)(user)
            except psycopg2.Error as error:
                self.failures.append(f"{kind}: {error.pgcode} {error}")
            self.done[kind] += 1

    def _update(self, user: str, assignments: list[str], values: list[Any], where: str = "true") -> bool:
        self.cursor.execute(
            f"update public.user_profiles as p set {', '.join(assignments)} where p.user_id = %s and {where}",
            [*values, user],
        )
        return self.cursor.rowcount == 1

    def _column_holds(self, user: str, trait: TraitColumn, image: str | None, value: str | None) -> None:
        # A column written as it was changes nothing, also where the JSON says more than it can hold.
        self.cursor.execute(
            "update oracle.cells set image = %s, json = case when image is distinct from %s then %s::jsonb else json end"
            " where user_id = %s and name = %s",
            [image, image, value, user, trait.name],
        )

    def _json_holds(self, user: str, trait: TraitColumn, image: str | None, value: str | None) -> None:
        self.cursor.execute(
            "update oracle.cells set image = %s, json = %s::jsonb where user_id = %s and name = %s",
            [image, value, user, trait.name],
        )

    def _json_value(self, trait: TraitColumn) -> tuple[str | None, str]:
        """What the column then holds, and the JSON."""
        if NOT_HELD[trait.data_type] and self.chance.random() < 0.3:
            return None, json.dumps(self.chance.choice(NOT_HELD[trait.data_type]))
        image, value = self.chance.choice(HELD[trait.data_type])
        return image, json.dumps(value)

    @staticmethod
    def _built(trait: TraitColumn) -> str:
        """The assignment of one path, whose parents may be missing; the last thing it needs is the value."""
        group = f"p.{trait.group}"
        inner = f"jsonb_build_object('{trait.path[-1]}', %s::jsonb)"
        if len(trait.path) == 2:
            parent = f"{group} -> '{trait.path[0]}'"
            inner = (
                f"jsonb_build_object('{trait.path[0]}',"
                f" case when jsonb_typeof({parent}) = 'object' then {parent} else '{{}}' end || {inner})"
            )
        return f"{trait.group} = coalesce({group}, '{{}}') || {inner}"

    # What an application does that knows the columns

    def columns(self, user: str) -> None:
        chosen = {trait: held(trait, self.chance) for trait in self.chance.sample(TRAITS, self.chance.randint(1, 4))}
        self._update(
            user, [f"{t.name} = cast(%s as {t.data_type})" for t in chosen], [image for image, _ in chosen.values()]
        )
        for trait, (image, value) in chosen.items():
            self._column_holds(user, trait, image, value)

    def upsert(self, user: str) -> None:
        trait = self.chance.choice(TRAITS)
        image, value = held(trait, self.chance)
        self.cursor.execute(
            f"insert into public.user_profiles (user_id, username, {trait.name}) values (%s, %s, cast(%s as {trait.data_type}))"
            f" on conflict (user_id) do update set {trait.name} = excluded.{trait.name}",
            [user, uuid.uuid4().hex, image],
        )
        self._column_holds(user, trait, image, value)

    # One that knows the groups

    def build(self, user: str) -> None:
        chosen = {
            trait: self._json_value(trait)
            for group in self.chance.sample(GROUPS, self.chance.randint(1, 3))
            for trait in [self.chance.choice(OF_GROUP[group])]
        }
        self._update(user, [self._built(trait) for trait in chosen], [value for _, value in chosen.values()])
        for trait, (image, value) in chosen.items():
            self._json_holds(user, trait, image, value)

    def set(self, user: str) -> None:
        trait = self.chance.choice(TRAITS)
        image, value = self._json_value(trait)
        path, parent = "{" + ",".join(trait.path) + "}", "{" + ",".join(trait.path[:-1]) + "}"
        if self._update(
            user,
            [f"{trait.group} = jsonb_set(p.{trait.group}, '{path}', %s)"],
            [value],
            f"jsonb_typeof(p.{trait.group} #> '{parent}') = 'object'",
        ):
            self._json_holds(user, trait, image, value)

    def remove(self, user: str) -> None:
        trait = self.chance.choice(TRAITS)
        path = "{" + ",".join(trait.path) + "}"
        if self._update(user, [f"{trait.group} = p.{trait.group} #- '{path}'"], [], f"{at(trait)} is not null"):
            self._json_holds(user, trait, None, None)

    def replace(self, user: str) -> None:
        group = self.chance.choice(GROUPS)
        chosen = {t: self._json_value(t) for t in OF_GROUP[group] if self.chance.random() < 0.5}
        document: dict[str, Any] = {"own": {"kept": None}}
        for trait, (_, value) in chosen.items():
            parent = document.setdefault(trait.path[0], {}) if len(trait.path) == 2 else document
            parent[trait.path[-1]] = json.loads(value)
        nothing = self.chance.random() < 0.2
        if self._update(
            user, [f"{group} = %s::jsonb"], [None if nothing else json.dumps(document)], f"p.{group} is not null"
        ):
            for trait in OF_GROUP[group]:
                image, value = (None, None) if nothing else chosen.get(trait, (None, None))
                self._json_holds(user, trait, image, value)

    def flatten(self, user: str) -> None:
        trait = self.chance.choice(WITH_PARENT)
        parent = trait.path[0]
        if self._update(
            user,
            [f"{trait.group} = jsonb_set(p.{trait.group}, '{{{parent}}}', '\"flat\"')"],
            [],
            f"jsonb_typeof(p.{trait.group} -> '{parent}') = 'object'",
        ):
            for each in OF_GROUP[trait.group]:
                if each.path[0] == parent:
                    self._json_holds(user, each, None, None)

    def sign_up(self, _: str) -> None:
        user = str(uuid.uuid4())
        image, value = self._json_value(CONFIDENCE)
        self.cursor.execute("insert into auth.users (id, email) values (%s, %s)", [user, f"{user}@example.org"])
        self.cursor.execute(
            "insert into oracle.cells select %s, c, null, null from unnest(%s) as c", [user, [t.name for t in TRAITS]]
        )
        # A column's default is there as long as the column is.
        self._update(user, [self._built(CONFIDENCE)], [value])
        self._json_holds(user, CONFIDENCE, image, value)
        self.connection.commit()
        self.users.append(user)

    # One on the way from columns to groups

    def both_sides(self, user: str) -> None:
        group = self.chance.choice([group for group in GROUPS if len(OF_GROUP[group]) > 1])
        by_column, by_path = self.chance.sample(OF_GROUP[group], 2)
        image, value = held(by_column, self.chance)
        other_image, other_value = self._json_value(by_path)
        self._update(
            user,
            [f"{by_column.name} = cast(%s as {by_column.data_type})", self._built(by_path)],
            [image, other_value],
        )
        self._column_holds(user, by_column, image, value)
        self._json_holds(user, by_path, other_image, other_value)

    def both_at_once(self, user: str) -> None:
        trait = self.chance.choice(TRAITS)
        image, _ = held(trait, self.chance)
        json_image, value = self._json_value(trait)
        # JSON written as it was would leave the word to the column.
        if self._update(
            user,
            [f"{trait.name} = cast(%s as {trait.data_type})", self._built(trait)],
            [image, value],
            f"{at(trait)} is distinct from '{value.replace(chr(39), chr(39) * 2)}'::jsonb",
        ):
            self._json_holds(user, trait, json_image, value)


BY_COLUMN = ("columns", "columns", "upsert", "both_sides", "both_at_once")
BY_PATH = (*("build", "set") * 6, *("remove", "replace", "flatten") * 3, "sign_up")
BY_BOTH = (*BY_PATH, *("both_sides", "both_at_once") * 3)


def mistakes(database: Database, *, columns: bool) -> list[Any]:
    """Where the table does not hold what the oracle says; JSON counts once a row is converted, columns while they exist."""
    cells = ", ".join(
        f"('{trait.name}', {f'p.{trait.name}::text' if columns else 'null'}, {at(trait)})" for trait in TRAITS
    )
    converted = f"num_nonnulls({', '.join(f'p.{group}' for group in GROUPS)}) > 0"
    return database.run(
        "select c.user_id, c.name, c.image, v.image, c.json, v.json from public.user_profiles as p"
        f" cross join lateral (values {cells}) as v (name, image, json)"
        " full join oracle.cells as c on c.user_id = p.user_id and c.name = v.name"
        " where p.user_id is null or c.user_id is null"
        + (" or v.image is distinct from c.image" if columns else "")
        + f" or (v.json is distinct from c.json and {converted if columns else 'true'})"
    )
