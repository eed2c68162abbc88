-- The phases of an adoption, in their order; a revision goes through those that it has steps for. A step says its phase
-- and its kind (what it does: rename_column, drop_policy, ...), and nothing reads its statement to learn either. Within
-- a phase the steps keep the order in which they were planned. A downgrade goes backwards.
--
-- Before anything changes:
--   look                            what hides the rest: a table that cannot be looked at, an option that is not right
--   refuse                          what stands against it
--   ask, ask_about_readers          questions, and those that follow from an answer
--   warn                            what people have to know
--   record                          the table as it was found, and the rights that stay
-- For a revision that takes no table over:
--   replace_objects                 functions, policies and triggers of the application, where ours come
-- What would be in the way goes:
--   rename_table, leave_publications, keep_comments, widen_replica_identity, set_rights_aside, relax_row_security,
--   drop_triggers, disable_triggers, drop_foreign_keys_of_others, drop_policies, drop_foreign_keys, drop_constraints,
--   drop_indexes, quarantine_rows
-- Names, columns and values become ours:
--   rename_columns, rename_constraints, rename_indexes, add_columns, make_users, fill_columns, make_users_of_new_ids,
--   retype_columns, create_primary_key, fill_user_ids, allow_nulls, fit_values, fit_usernames, keep_contacts,
--   set_defaults, keep_defaults
-- Rules over them, and what went aside for a while:
--   create_checks, create_unique_constraints, create_indexes, create_referenced_constraints, create_foreign_keys,
--   create_foreign_keys_of_others, narrow_replica_identity, enable_triggers, create_triggers, create_policies,
--   restore_comments, create_view
create or replace function profiles_internal.adoption_phases()
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $adoption_phases$
  select array[
    'look', 'refuse', 'ask', 'ask_about_readers', 'warn', 'record',
    'replace_objects',
    'rename_table', 'leave_publications', 'keep_comments', 'widen_replica_identity', 'set_rights_aside',
      'relax_row_security',
    'drop_triggers', 'disable_triggers', 'drop_foreign_keys_of_others', 'drop_policies', 'drop_foreign_keys',
      'drop_constraints',
    'drop_indexes', 'quarantine_rows',
    'rename_columns', 'rename_constraints', 'rename_indexes', 'add_columns', 'make_users', 'fill_columns',
    'make_users_of_new_ids', 'retype_columns', 'create_primary_key', 'fill_user_ids', 'allow_nulls', 'fit_values',
    'fit_usernames', 'keep_contacts', 'set_defaults', 'keep_defaults',
    'create_checks', 'create_unique_constraints', 'create_indexes', 'create_referenced_constraints',
      'create_foreign_keys',
    'create_foreign_keys_of_others', 'narrow_replica_identity', 'enable_triggers', 'create_triggers', 'create_policies',
    'restore_comments', 'create_view'
  ]
$adoption_phases$;

revoke all on function profiles_internal.adoption_phases() from public, anon, authenticated, service_role;
