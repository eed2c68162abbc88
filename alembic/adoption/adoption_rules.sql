-- What becomes of a value that our CHECKs refuse: one row per column. "wrong" and "fitted" are expressions over the
-- table's own columns; {table} in them stands for the table. The first rule of a column that applies is taken. The old
-- value is kept in profiles_internal.adopted.
create or replace function profiles_internal.adoption_rules()
returns table (place integer, table_name text, column_name text, wrong text, fitted text, rule text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $adoption_rules$
  -- Texts are cut.
  select 10, 'user_profiles', l.column_name,
    format('char_length(%I) > %s', l.column_name, l.most), format('left(%I, %s)', l.column_name, l.most),
    format('more than %s characters: cut', l.most)
  from (values
    ('phone', 40), ('bio', 4000), ('target_audience', 20000), ('business_context', 20000),
      ('master_system_prompt', 20000)
  ) as l (column_name, most)
  union all
  -- So are names, and they lose what cannot be seen; a line end becomes a space (profile_values does the same).
  select n.place, 'user_profiles', c.column_name, format(n.wrong, c.column_name),
    format($fitted$left(regexp_replace(translate(%I, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '),
      '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g'), 200)$fitted$,
      c.column_name),
    n.rule
  from unnest(array['display_name', 'first_name', 'last_name', 'company_name']) as c (column_name)
  cross join (values
    (10, 'char_length(%I) > 200', 'more than 200 characters: cut'),
    (11, $wrong$%I ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]'$wrong$,
      'hidden characters: removed')
  ) as n (place, wrong, rule)
  union all
  -- An address is whole or worthless.
  select 20, 'user_profiles', u.column_name,
    format('not (%1$I ~ ''^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)'' and char_length(%1$I) <= 2048)',
      u.column_name), 'null::text',
    'no web address or path of up to 2048 characters: null'
  from unnest(array['avatar_url', 'profile_picture_url', 'logo_url']) as u (column_name)
  union all
  -- An empty field is no key; profiles_schema.operations.keys knows the same blanks.
  select 20, 'user_api_keys', k.column_name, format($wrong$btrim(%I, e' \t\n\r\f\x0b') = ''$wrong$, k.column_name),
    'null::text', 'blank: null'
  from unnest(array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key']) as k (column_name)
  union all
  select 30, 'user_profiles', j.column_name,
    format('jsonb_typeof(%1$I) <> ''object'' or pg_column_size(%1$I) > 131072 or %1$I @? ''$.**{33}'' or %1$I @? %2$L '
      'or octet_length(%1$I::text) > 65536',
      j.column_name, 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'), '''{}''::jsonb',
    'no object of up to 64 kB and 32 levels: {}'
  from unnest(array['preferences', 'notification_settings']) as j (column_name)
  union all
  select 30, 'user_profiles', g.column_name, format('jsonb_typeof(%I) <> ''object''', g.column_name), 'null::jsonb',
    'no object: null'
  from unnest(array[
    'personality_traits', 'appearance_traits', 'behavioral_metrics', 'cultural_attributes', 'analysis_summary',
      'metadata'
  ]) as g (column_name)
  union all
  select 40, c.table_name, c.column_name, format('%I < 0', c.column_name), '0', 'below zero: 0'
  from (values
    ('user_profiles', 'login_count'), ('user_profiles', 'message_count'),
    ('user_progress', 'total_sessions'), ('user_progress', 'total_descriptions'), ('user_progress', 'total_images'),
    ('user_progress', 'total_questions_answered'), ('user_progress', 'total_correct_answers'),
    ('user_progress', 'total_vocabulary_learned'), ('user_progress', 'total_answer_seconds'),
    ('user_progress', 'total_time_spent_minutes'), ('user_progress', 'average_completion_time_seconds'),
    ('user_progress', 'current_streak_days'), ('user_progress', 'longest_streak_days'),
      ('user_progress', 'total_points'),
    ('user_progress', 'mastered_words_count'), ('user_progress', 'learning_words_count'),
      ('user_progress', 'new_words_count'),
    ('export_history', 'records_count'), ('export_history', 'retry_count'), ('user_profile_audit_logs', 'retry_count')
  ) as c (table_name, column_name)
  union all
  select * from (values
    (50, 'user_profiles', 'key_metrics',
      $rule$jsonb_typeof(key_metrics) not in ('array', 'null')
        and pg_column_size(key_metrics) <= 131000
        and not key_metrics @? '$.**{32}'
        and not key_metrics @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
        and octet_length(jsonb_build_array(key_metrics)::text) <= 65536$rule$,
      'jsonb_build_array(key_metrics)', 'no array: an array of it'),
    (51, 'user_profiles', 'key_metrics',
      $rule$jsonb_typeof(key_metrics) <> 'array'
        or pg_column_size(key_metrics) > 131072
        or key_metrics @? '$.**{33}'
        or key_metrics @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
        or octet_length(key_metrics::text) > 65536$rule$,
      '''[]''::jsonb', 'no array of up to 64 kB and 32 levels: []'),
    -- An unknown value is treated as private.
    (52, 'user_profiles', 'profile_visibility',
      $rule$profile_visibility is null or profile_visibility not in ('public', 'private')$rule$,
      '''private''', 'neither public nor private: private'),
    (53, 'user_profiles', 'language',
      $rule$language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$'
        and replace(language, '_', '-') ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$'
        and char_length(language) <= 35$rule$,
      'replace(language, ''_'', ''-'')', 'underscores in a language tag: hyphens'),
    (54, 'user_profiles', 'language',
      $rule$not (language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' and char_length(language) <= 35)$rule$,
      '''en''', 'no language tag: en'),
    (55, 'user_profiles', 'timezone', 'timezone not in (select z.name from pg_timezone_names as z)', '''UTC''',
      'no known time zone: UTC'),
    (56, 'user_profiles', 'referral_code',
      '(referral_code, id) in (select r.code, r.id from (select x.referral_code as code, x.id, row_number() over '
        '(partition by x.referral_code order by x.created_at, x.id) as n from {table} as x where x.referral_code is '
        'not null) as r where r.n > 1)',
      'null::text', 'an older profile has this referral code: null'),
    (57, 'user_profiles', 'external_id',
      '(external_id, id) in (select r.code, r.id from (select x.external_id as code, x.id, row_number() over '
        '(partition by x.external_id order by x.created_at, x.id) as n from {table} as x where x.external_id is not '
        'null) as r where r.n > 1)',
      'null::text', 'an older profile has this outside id: null'),
    (21, 'user_profiles', 'email', 'char_length(email) > 320', 'null::text', 'more than 320 characters: null'),
    (22, 'user_profiles', 'avatar_emoji', $rule$avatar_emoji !~ '^[^\u0001-\u001f&<>]{0,16}$'$rule$,
      $fitted$left(regexp_replace(avatar_emoji, '[\u0001-\u001f&<>]', '', 'g'), 16)$fitted$,
        'more than 16 characters, or markup: cut'),
    (58, 'user_api_keys', 'validation', 'jsonb_typeof(validation) <> ''object''', '''{}''::jsonb', 'no object: {}'),
    (60, 'export_history', 'status',
      $rule$status not in ('pending', 'processing', 'completed', 'failed', 'expired')$rule$,
      '''failed''::character varying(20)', 'no known status: failed'),
    (61, 'export_history', 'file_size_bytes', 'file_size_bytes < 0', 'null::bigint', 'below zero: null'),
    (62, 'export_history', 'filters',
      $rule$jsonb_typeof(filters) <> 'object'
        or pg_column_size(filters) > 131072
        or filters @? '$.**{33}'
        or filters @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
        or octet_length(filters::text) > 65536$rule$,
      'null::jsonb', 'no object of up to 64 kB and 32 levels: null'),
    (70, 'user_profile_audit_logs', 'user_id',
      'user_id is not null and not exists (select from auth.users as u where u.id = user_id)',
      'null::uuid', 'no such user: null'),
    (71, 'user_profile_audit_logs',
      'action', $rule$action is null
        or action not in ('created', 'updated', 'failed', 'skipped', 'repaired', 'deleted',
          'key_set', 'key_deleted', 'key_disabled', 'key_enabled', 'key_read')$rule$,
      '''skipped''', 'no known action: skipped'),
    (72, 'user_profile_audit_logs', 'origin',
      $rule$origin is null
        or origin not in ('trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize')$rule$,
      '''manual''', 'no known origin: manual')
  ) as r (place, table_name, column_name, wrong, fitted, rule)
$adoption_rules$;

revoke all on function profiles_internal.adoption_rules() from public, anon, authenticated, service_role;
