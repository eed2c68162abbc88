"""The ordered inventory of the SQL files: the current text of every function, trigger and policy.

Each file bears the name of its object. Applying the files in this order to the tables of the models gives the same
database as all migrations do; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib.resources import files

from profiles_schema.schema.traits import trait_columns


class Where(Enum):
    """On which databases an object exists. The value is a condition in SQL, asked of the catalog."""

    EVERYWHERE = "true"
    OWN_IDENTITY = (
        "coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '')"
        " like 'profiles-schema:%'"
    )
    OWN_SESSIONS = (
        "coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('public.sessions'), 'pg_class'), '')"
        " like 'profiles-schema:%'"
    )
    OWN_INSERTS = (
        "exists (select from profiles_internal.adopted as a where a.object_type = 'rights'"
        " and a.object_name = 'public.user_profiles' and (a.data ->> 'inserts')::boolean)"
    )
    OLD_STATEMENTS = (
        "exists (select from pg_catalog.pg_trigger as t where t.tgrelid = pg_catalog.to_regclass('public.user_profiles')"
        " and t.tgname in ('carry_user_id', 'carry_user_id_change'))"
        " or exists (select from pg_catalog.pg_class as c where c.relkind = 'v' and pg_catalog.obj_description(c.oid, 'pg_class')"
        f" = 'profiles-schema: user_profiles under its old name') or {OWN_INSERTS}"
    )
    OWN_INSERTS_BY_ID = (
        "exists (select from pg_catalog.pg_trigger as t where t.tgrelid = pg_catalog.to_regclass('public.user_profiles')"
        f" and t.tgname = 'carry_user_id' and t.tgargs = 'id\\000') and {OWN_INSERTS}"
    )
    ADOPTED_PROFILES = (
        "exists (select from profiles_internal.adopted as a"
        " where a.object_type = 'table' and a.object_name = 'public.user_profiles')"
    )
    OLD_SHAPE = (
        "exists (select from profiles_internal.adopted as a"
        " where a.object_type = 'table' and a.object_name = 'public.user_profiles'"
        """ and a.data -> 'columns' @> '[{"name": "user_id", "now": "external_id"}]')"""
    )
    WIDE_COLUMNS = (
        "exists (select from profiles_internal.legacy_columns)"
        " or exists (select from pg_catalog.pg_attribute as a"
        " where a.attrelid = pg_catalog.to_regclass('public.user_profiles') and not a.attisdropped"
        f" and a.attname = any ('{{{', '.join(trait.name for trait in trait_columns())}}}')) or {OLD_SHAPE}"
    )
    OTHER_USERS = "exists (select from profiles_internal.settings as s where s.key = 'identity')"
    USABLE_SESSIONS = (
        "(select count(*) from pg_catalog.pg_attribute as a"
        " where a.attrelid = pg_catalog.to_regclass('public.sessions') and not a.attisdropped"
        " and a.attname in ('id', 'user_id', 'started_at', 'ended_at', 'duration_minutes', 'descriptions_generated',"
        " 'images_processed', 'qa_attempts', 'vocabulary_learned')"
        " and (a.attname <> 'user_id' or a.atttypid = 'pg_catalog.uuid'::pg_catalog.regtype)"
        " and (a.attname not in ('started_at', 'ended_at') or a.atttypid = 'pg_catalog.timestamptz'::pg_catalog.regtype)) = 9"
    )


@dataclass(frozen=True)
class SqlObject:
    """One SQL file: ``kind`` is its folder (functions, triggers, policies), ``name`` its stem."""

    kind: str
    name: str
    where: Where = Where.EVERYWHERE

    @cached_property
    def text(self) -> str:
        """The file's text, read once."""
        path = files("profiles_schema.schema") / "sql" / self.kind / f"{self.name}.sql"
        return path.read_text(encoding="utf-8")

    @property
    def statement(self) -> str:
        """What applies the object: the file's text, asking the catalog first where it does not exist everywhere."""
        if self.where is Where.EVERYWHERE:
            return self.text
        return (
            f"do $only_where$\nbegin\n  if {self.where.value} then\n    execute $frozen$\n"
            f"{self.text}$frozen$;\n  end if;\nend\n$only_where$"
        )

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}.sql"


FUNCTIONS = (
    SqlObject("functions", "auth.jwt", Where.OWN_IDENTITY),
    SqlObject("functions", "auth.uid", Where.OWN_IDENTITY),
    SqlObject("functions", "auth.role", Where.OWN_IDENTITY),
    SqlObject("functions", "auth.email", Where.OWN_IDENTITY),
    SqlObject("functions", "profiles_internal.carry_user_id", Where.ADOPTED_PROFILES),
    SqlObject("functions", "profiles_internal.install_carry_user_id", Where.ADOPTED_PROFILES),
    SqlObject("functions", "profiles_internal.old_name_rights", Where.ADOPTED_PROFILES),
    SqlObject("functions", "profiles_internal.default_language"),
    SqlObject("functions", "profiles_internal.default_timezone"),
    SqlObject("functions", "profiles_internal.profile_values"),
    SqlObject("functions", "profiles_internal.living_users"),
    SqlObject("functions", "profiles_internal.key_of"),
    SqlObject("functions", "profiles_internal.create_profiles"),
    SqlObject("functions", "profiles_internal.record_events"),
    SqlObject("functions", "profiles_internal.describe_failure"),
    SqlObject("functions", "profiles_internal.audit_source"),
    SqlObject("functions", "profiles_internal.rescue_sign_ups"),
    SqlObject("functions", "profiles_internal.sign_up"),
    SqlObject("functions", "profiles_internal.known_traits"),
    SqlObject("functions", "profiles_internal.left_columns"),
    SqlObject("functions", "profiles_internal.erase_profile"),
    SqlObject("functions", "profiles_internal.follow_user"),
    SqlObject("functions", "profiles_internal.computed_progress"),
    SqlObject("functions", "profiles_internal.recount_progress"),
    SqlObject("functions", "profiles_internal.repair_profile"),
    SqlObject("functions", "profiles_internal.may_act_for"),
    SqlObject("functions", "profiles_internal.record_key_use"),
    SqlObject("functions", "profiles_internal.check_encryption_key"),
    SqlObject("functions", "profiles_internal.may_use_own_rows"),
    SqlObject("functions", "profiles_internal.may_add_own_rows"),
    SqlObject("functions", "profiles_internal.require_active_caller"),
    SqlObject("functions", "profiles_internal.ensure_profile"),
    SqlObject("functions", "profiles_internal.public_profiles"),
    SqlObject("functions", "profiles_internal.available_username"),
    SqlObject("functions", "profiles_internal.profile_stats"),
    SqlObject("functions", "profiles_internal.make_user", Where.OWN_IDENTITY),
    SqlObject("functions", "public.gen_available_username"),
    SqlObject("functions", "public.ensure_user_profile"),
    SqlObject("functions", "public.get_my_profile_v2"),
    SqlObject("functions", "profiles_internal.referral_code"),
    SqlObject("functions", "public.get_my_referral_code"),
    SqlObject("functions", "public.get_my_progress"),
    SqlObject("functions", "profiles_internal.export_my_data"),
    SqlObject("functions", "public.export_my_data"),
    SqlObject("functions", "profiles_internal.delete_my_account"),
    SqlObject("functions", "public.delete_my_account"),
    SqlObject("functions", "profiles_internal.award_points"),
    SqlObject("functions", "public.award_points"),
    SqlObject("functions", "profiles_internal.refused_changes"),
    SqlObject("functions", "profiles_internal.merge_patch"),
    SqlObject("functions", "public.update_my_profile_v2"),
    SqlObject("functions", "public.get_public_profile"),
    SqlObject("functions", "public.get_public_profiles"),
    SqlObject("functions", "public.get_user_profile_stats"),
    SqlObject("functions", "public.create_user", Where.OWN_IDENTITY),
    SqlObject("functions", "profiles_internal.traits_in_place", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_to_json", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_from_json", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_at", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_document", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_comparisons", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.trait_differences", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.differing_profiles", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.remove_dual_write", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.dual_write_body", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.dual_write_is_whole", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.install_dual_write", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.restore_set_aside", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.expand_traits", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.join_path", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.split_path", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.json_leaves", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.without_paths", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.bring_back_kept_json", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.convert_traits", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.finish_conversion", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.contract_traits", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.begin_trait_restore", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.restore_traits", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.finish_trait_restore", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.keep_json", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.forget_traits", Where.WIDE_COLUMNS),
    SqlObject("functions", "profiles_internal.refuse_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.identity_table", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.read_time", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.identity_users", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.identity_wanted", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.take_users", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.release_users", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.rekey_users", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.apply_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.follow_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.on_identity_changed", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.fill_external_id", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.identity_triggers", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.remove_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.install_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.choose_identity", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.identity_window", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.take_identities", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.gone_identities", Where.OTHER_USERS),
    SqlObject("functions", "profiles_internal.fit_username", Where.OLD_SHAPE),
    SqlObject("functions", "profiles_internal.set_trait", Where.OLD_SHAPE),
    SqlObject("functions", "profiles_internal.old_profile_columns", Where.OLD_SHAPE),
    SqlObject("functions", "profiles_internal.install_old_profiles", Where.OLD_SHAPE),
    SqlObject("functions", "profiles_internal.remove_old_profiles", Where.OLD_SHAPE),
)

GENERATED = (
    "profiles_internal.dual_write_traits()",
    "public.user_profiles.zz_dual_write",
    "public.user_profiles.fill_external_id",
    "public.user_profiles.carry_user_id",
    "public.user_profiles.carry_user_id_change",
    "auth.users.00_profiles_on_auth_user_created",
)
"""What the database writes itself, in no file and no drift: the dual write while there are wide columns, a trigger for users
of the application's own table whose keys are no uuids, those for the column that says whose an adopted row is, and the one
that runs before the application's row triggers at sign-up."""

POLICIES = (
    SqlObject("policies", "profiles_internal"),
    SqlObject("policies", "auth.users", Where.OWN_IDENTITY),
    SqlObject("policies", "user_profiles"),
    SqlObject("policies", "user_progress"),
    SqlObject("policies", "sessions", Where.OWN_SESSIONS),
    SqlObject("policies", "user_api_keys"),
    SqlObject("policies", "user_provider_keys"),
    SqlObject("policies", "export_history"),
    SqlObject("policies", "user_profile_audit_logs"),
    SqlObject("policies", "service_role"),
)

TRIGGERS = (
    SqlObject("triggers", "fill_missing_profile_id"),
    SqlObject("triggers", "fill_profile_of_view", Where.OLD_STATEMENTS),
    SqlObject("triggers", "require_known_timezone"),
    SqlObject("triggers", "refuse_reserved_username"),
    SqlObject("triggers", "hold_username"),
    SqlObject("triggers", "refuse_plain_api_keys"),
    SqlObject("triggers", "reset_replaced_key"),
    SqlObject("triggers", "keep_updated_at"),
    SqlObject("triggers", "record_profile_change"),
    SqlObject("triggers", "record_key_change"),
    SqlObject("triggers", "forget_adopted_values", Where.ADOPTED_PROFILES),
    SqlObject("triggers", "guard_export_status"),
    SqlObject("triggers", "record_export"),
    SqlObject("triggers", "restore_points"),
    SqlObject("triggers", "roll_up_sessions", Where.USABLE_SESSIONS),
    SqlObject("triggers", "profiles_on_auth_user_created"),
    SqlObject("triggers", "profiles_on_auth_user_updated"),
)


def inventory() -> Iterator[SqlObject]:
    """All objects, in the order in which they can be applied to the tables of the models."""
    yield from FUNCTIONS
    yield from POLICIES
    yield from TRIGGERS
