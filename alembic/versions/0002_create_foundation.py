"""Roles of the API, users where there is no auth server, and the tables that the database keeps for itself.

Why: everything else hangs on auth.users(id), auth.uid() and the three roles, and leaves its record in profiles_internal.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for a foreign key: its writers wait for milliseconds, its readers not at all.
Beside it: any code may run.
Back: drops the internal tables, and auth.users where it was made here; refuses while that holds users. Roles stay.
"""

from alembic import op

revision = "0002_create_foundation"
down_revision = "0001_default_profile_id"
branch_labels = None
depends_on = None
downgrade_drops = ("auth.users",)


def upgrade() -> None:
    op.execute(
        r"""
-- The roles of the API belong to the whole server: made only where missing, never dropped, and another database may be
-- making them at this very moment.
do $roles$
declare
  role_name text;
begin
  foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
    for attempt in 1 .. 20 loop
      exit when exists (select from pg_roles as r where r.rolname = role_name);
      begin
        if role_name = 'service_role' then
          begin
            execute 'create role service_role nologin noinherit bypassrls';
          exception when insufficient_privilege then
            execute 'create role service_role nologin noinherit';
          end;
        else
          execute format('create role %I nologin noinherit', role_name);
        end if;
      exception
        when insufficient_privilege then
          raise exception 'role % may not create the role %', current_user, role_name
            using errcode = 'insufficient_privilege',
              hint = 'An administrator runs: create role anon nologin noinherit; create role authenticated nologin noinherit; '
                'create role service_role nologin noinherit bypassrls; '
                || format('grant anon, authenticated, service_role to %I;', current_user);
        when duplicate_object or unique_violation or internal_error then
          perform pg_sleep(0.05 * attempt);
      end;
    end loop;
  end loop;
end
$roles$;

do $memberships$
declare
  role_name text;
  app_role constant text := nullif(current_setting('profiles_schema.app_role', true), '');
  member_name text;
begin
  if app_role is not null and not exists (select from pg_roles as r where r.rolname = app_role) then
    raise exception 'there is no role "%" to grant the API roles to', app_role
      using hint = 'Create it first, or correct -x app-role.';
  end if;
  foreach member_name in array array_remove(array[current_user::text, app_role], null) loop
    foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
      for attempt in 1 .. 20 loop
        begin
          if not exists (
            select from pg_auth_members as m
            where m.roleid = (select r.oid from pg_roles as r where r.rolname = role_name)
              and m.member = (select r.oid from pg_roles as r where r.rolname = member_name)
          ) or not pg_has_role(member_name, role_name, 'usage') then
            execute format('grant %I to %I', role_name, member_name);
          end if;
          exit;
        exception
          when insufficient_privilege then
            if pg_has_role(member_name, role_name, 'member') then
              exit;
            end if;
            raise exception 'role % may not grant the role % to %', current_user, role_name, member_name
              using errcode = 'insufficient_privilege',
                hint = format('An administrator runs: grant anon, authenticated, service_role to %I;', member_name);
          when unique_violation or internal_error then
            perform pg_sleep(0.05 * attempt);
        end;
      end loop;
    end loop;
  end loop;
end
$memberships$;
"""
    )
    op.execute(
        r"""
-- The tables as the revisions make them, for adoption to compare with: columns, constraints, indexes, table comments.
-- Made from the models by `make snapshot`.
create or replace function profiles_internal.wanted_shape()
returns table (table_name text, kind text, name text, definition text, not_null boolean, default_value text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $wanted_shape$
  values
    ('user_profiles', 'column', 'id', 'text', true, '(gen_random_uuid())::text'),
    ('user_profiles', 'column', 'user_id', 'uuid', true, null),
    ('user_profiles', 'column', 'external_id', 'text', false, null),
    ('user_profiles', 'column', 'username', 'text', true, null),
    ('user_profiles', 'column', 'display_name', 'text', false, null),
    ('user_profiles', 'column', 'first_name', 'text', false, null),
    ('user_profiles', 'column', 'last_name', 'text', false, null),
    ('user_profiles', 'column', 'email', 'text', false, null),
    ('user_profiles', 'column', 'phone', 'text', false, null),
    ('user_profiles', 'column', 'bio', 'text', false, null),
    ('user_profiles', 'column', 'company_name', 'text', false, null),
    ('user_profiles', 'column', 'target_audience', 'text', false, null),
    ('user_profiles', 'column', 'business_context', 'text', false, null),
    ('user_profiles', 'column', 'master_system_prompt', 'text', false, null),
    ('user_profiles', 'column', 'avatar_emoji', 'text', false, '''👶''::text'),
    ('user_profiles', 'column', 'avatar_url', 'text', false, null),
    ('user_profiles', 'column', 'profile_picture_url', 'text', false, null),
    ('user_profiles', 'column', 'logo_url', 'text', false, null),
    ('user_profiles', 'column', 'profile_visibility', 'text', true, '''public''::text'),
    ('user_profiles', 'column', 'role', 'text', true, '''user''::text'),
    ('user_profiles', 'column', 'referral_code', 'text', false, null),
    ('user_profiles', 'column', 'key_metrics', 'jsonb', true, '''[]''::jsonb'),
    ('user_profiles', 'column', 'preferences', 'jsonb', true, '''{}''::jsonb'),
    ('user_profiles', 'column', 'notification_settings', 'jsonb', true, '''{}''::jsonb'),
    ('user_profiles', 'column', 'timezone', 'text', true, '''UTC''::text'),
    ('user_profiles', 'column', 'language', 'text', true, '''en''::text'),
    ('user_profiles', 'column', 'is_active', 'boolean', true, 'true'),
    ('user_profiles', 'column', 'email_verified', 'boolean', true, 'false'),
    ('user_profiles', 'column', 'is_anonymous', 'boolean', true, 'false'),
    ('user_profiles', 'column', 'last_login', 'timestamp with time zone', false, null),
    ('user_profiles', 'column', 'login_count', 'integer', true, '0'),
    ('user_profiles', 'column', 'first_seen_at', 'bigint', true, '(EXTRACT(epoch FROM now()))::bigint'),
    ('user_profiles', 'column', 'last_interaction_at', 'bigint', true, '(EXTRACT(epoch FROM now()))::bigint'),
    ('user_profiles', 'column', 'last_analyzed_at', 'bigint', false, null),
    ('user_profiles', 'column', 'last_photo_analyzed_at', 'bigint', false, null),
    ('user_profiles', 'column', 'message_count', 'integer', true, '0'),
    ('user_profiles', 'column', 'personality_traits', 'jsonb', false, null),
    ('user_profiles', 'column', 'appearance_traits', 'jsonb', false, null),
    ('user_profiles', 'column', 'behavioral_metrics', 'jsonb', false, null),
    ('user_profiles', 'column', 'cultural_attributes', 'jsonb', false, null),
    ('user_profiles', 'column', 'analysis_summary', 'jsonb', false, null),
    ('user_profiles', 'column', 'metadata', 'jsonb', false, null),
    ('user_profiles', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('user_profiles', 'column', 'updated_at', 'timestamp with time zone', true, 'now()'),
    ('user_profiles', 'check', 'ck_user_profiles_analysis_summary_is_object', 'CHECK ((analysis_summary @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_appearance_traits_is_object', 'CHECK ((appearance_traits @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_avatar_emoji_up_to_16_characters_no_markup', 'CHECK ((avatar_emoji ~ ''^[^\u0001-\u001f&<>]{0,16}$''::text))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_avatar_url_is_a_web_address', 'CHECK (((avatar_url ~ ''^(https?://|/[^/\\\s])''::text) AND (char_length(avatar_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_behavioral_metrics_is_object', 'CHECK ((behavioral_metrics @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_bio_up_to_4000_characters', 'CHECK ((char_length(bio) <= 4000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_business_context_up_to_20000_characters', 'CHECK ((char_length(business_context) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_company_name_up_to_200_characters', 'CHECK ((char_length(company_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_cultural_attributes_is_object', 'CHECK ((cultural_attributes @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_display_name_up_to_200_characters', 'CHECK ((char_length(display_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_email_up_to_320_characters', 'CHECK ((char_length(email) <= 320))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_first_name_up_to_200_characters', 'CHECK ((char_length(first_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_key_metrics_array_64_kb_32_levels', 'CHECK (((pg_column_size(key_metrics) <= 131072) AND (key_metrics @> ''[]''::jsonb) AND (NOT (key_metrics @? ''$.**{33}''::jsonpath)) AND (NOT (key_metrics @? ''strict $.**?((@ > 10000000000000000000000000000000000000000 || @ < -10000000000000000000000000000000000000000) || (@ != 0 && @ > -0.0000000000000000000000000000000000000001) && @ < 0.0000000000000000000000000000000000000001)''::jsonpath)) AND (octet_length((key_metrics)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_language_is_a_bcp_47_tag', 'CHECK (((language ~ ''^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$''::text) AND (char_length(language) <= 35)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_last_name_up_to_200_characters', 'CHECK ((char_length(last_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_login_count_not_negative', 'CHECK ((login_count >= 0))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_logo_url_is_a_web_address', 'CHECK (((logo_url ~ ''^(https?://|/[^/\\\s])''::text) AND (char_length(logo_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_master_system_prompt_up_to_20000_characters', 'CHECK ((char_length(master_system_prompt) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_message_count_not_negative', 'CHECK ((message_count >= 0))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_metadata_is_object', 'CHECK ((metadata @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_names_without_hidden_characters', 'CHECK ((concat(display_name, first_name, last_name, company_name) !~ ''[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]''::text))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_notification_settings_object_64_kb_32_levels', 'CHECK (((pg_column_size(notification_settings) <= 131072) AND (notification_settings @> ''{}''::jsonb) AND (NOT (notification_settings @? ''$.**{33}''::jsonpath)) AND (NOT (notification_settings @? ''strict $.**?((@ > 10000000000000000000000000000000000000000 || @ < -10000000000000000000000000000000000000000) || (@ != 0 && @ > -0.0000000000000000000000000000000000000001) && @ < 0.0000000000000000000000000000000000000001)''::jsonpath)) AND (octet_length((notification_settings)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_personality_traits_is_object', 'CHECK ((personality_traits @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_phone_up_to_40_characters', 'CHECK ((char_length(phone) <= 40))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_preferences_object_64_kb_32_levels', 'CHECK (((pg_column_size(preferences) <= 131072) AND (preferences @> ''{}''::jsonb) AND (NOT (preferences @? ''$.**{33}''::jsonpath)) AND (NOT (preferences @? ''strict $.**?((@ > 10000000000000000000000000000000000000000 || @ < -10000000000000000000000000000000000000000) || (@ != 0 && @ > -0.0000000000000000000000000000000000000001) && @ < 0.0000000000000000000000000000000000000001)''::jsonpath)) AND (octet_length((preferences)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_profile_picture_url_is_a_web_address', 'CHECK (((profile_picture_url ~ ''^(https?://|/[^/\\\s])''::text) AND (char_length(profile_picture_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_profile_visibility_is_public_or_private', 'CHECK ((profile_visibility = ANY (ARRAY[''public''::text, ''private''::text])))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_target_audience_up_to_20000_characters', 'CHECK ((char_length(target_audience) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_username_is_3_to_32_of_a_z_0_9', 'CHECK ((username ~ ''^[a-z0-9_.-]{3,32}$''::text))', null, null),
    ('user_profiles', 'foreign key', 'fk_user_profiles_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_profiles', 'primary key', 'pk_user_profiles', 'PRIMARY KEY (id)', null, null),
    ('user_profiles', 'unique', 'uq_user_profiles_external_id', 'UNIQUE (external_id)', null, null),
    ('user_profiles', 'unique', 'uq_user_profiles_referral_code', 'UNIQUE (referral_code)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_appearance_gin', 'CREATE INDEX idx_user_profiles_appearance_gin ON public.user_profiles USING gin (appearance_traits jsonb_path_ops)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_behavioral_gin', 'CREATE INDEX idx_user_profiles_behavioral_gin ON public.user_profiles USING gin (behavioral_metrics jsonb_path_ops)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_last_analyzed', 'CREATE INDEX idx_user_profiles_last_analyzed ON public.user_profiles USING btree (last_analyzed_at)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_personality_gin', 'CREATE INDEX idx_user_profiles_personality_gin ON public.user_profiles USING gin (personality_traits jsonb_path_ops)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_preferences_gin', 'CREATE INDEX idx_user_profiles_preferences_gin ON public.user_profiles USING gin (preferences jsonb_path_ops)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_updated_at', 'CREATE INDEX idx_user_profiles_updated_at ON public.user_profiles USING btree (updated_at DESC)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_user_id', 'CREATE UNIQUE INDEX idx_user_profiles_user_id ON public.user_profiles USING btree (user_id)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_username_lower', 'CREATE UNIQUE INDEX idx_user_profiles_username_lower ON public.user_profiles USING btree (lower(username))', null, null),
    ('user_profiles', 'comment', 'user_profiles', 'One profile per user, made by a trigger at sign-up', null, null),
    ('user_progress', 'column', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('user_progress', 'column', 'user_id', 'uuid', true, null),
    ('user_progress', 'column', 'total_sessions', 'integer', true, '0'),
    ('user_progress', 'column', 'total_descriptions', 'integer', true, '0'),
    ('user_progress', 'column', 'total_images', 'integer', true, '0'),
    ('user_progress', 'column', 'total_questions_answered', 'integer', true, '0'),
    ('user_progress', 'column', 'total_correct_answers', 'integer', true, '0'),
    ('user_progress', 'column', 'total_vocabulary_learned', 'integer', true, '0'),
    ('user_progress', 'column', 'total_answer_seconds', 'integer', true, '0'),
    ('user_progress', 'column', 'total_time_spent_minutes', 'integer', true, '0'),
    ('user_progress', 'column', 'average_accuracy', 'numeric(5,2)', true, '0'),
    ('user_progress', 'column', 'average_completion_time_seconds', 'integer', true, '0'),
    ('user_progress', 'column', 'last_activity_at', 'timestamp with time zone', false, null),
    ('user_progress', 'column', 'last_description_at', 'timestamp with time zone', false, null),
    ('user_progress', 'column', 'last_qa_session_at', 'timestamp with time zone', false, null),
    ('user_progress', 'column', 'last_vocabulary_practice_at', 'timestamp with time zone', false, null),
    ('user_progress', 'column', 'last_active_on', 'date', false, null),
    ('user_progress', 'column', 'current_streak_days', 'integer', true, '0'),
    ('user_progress', 'column', 'longest_streak_days', 'integer', true, '0'),
    ('user_progress', 'column', 'total_points', 'integer', true, '0'),
    ('user_progress', 'column', 'mastered_words_count', 'integer', true, '0'),
    ('user_progress', 'column', 'learning_words_count', 'integer', true, '0'),
    ('user_progress', 'column', 'new_words_count', 'integer', true, '0'),
    ('user_progress', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('user_progress', 'column', 'updated_at', 'timestamp with time zone', true, 'now()'),
    ('user_progress', 'check', 'ck_user_progress_learning_words_count_not_negative', 'CHECK ((learning_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_mastered_words_count_not_negative', 'CHECK ((mastered_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_new_words_count_not_negative', 'CHECK ((new_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_rolled_up_not_negative', 'CHECK ((LEAST(total_sessions, total_descriptions, total_images, total_questions_answered, total_correct_answers, total_vocabulary_learned, total_answer_seconds, total_time_spent_minutes, average_completion_time_seconds, current_streak_days, longest_streak_days) >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_total_points_not_negative', 'CHECK ((total_points >= 0))', null, null),
    ('user_progress', 'foreign key', 'fk_user_progress_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_progress', 'primary key', 'pk_user_progress', 'PRIMARY KEY (id)', null, null),
    ('user_progress', 'index', 'idx_user_progress_last_activity', 'CREATE INDEX idx_user_progress_last_activity ON public.user_progress USING btree (last_activity_at DESC)', null, null),
    ('user_progress', 'index', 'idx_user_progress_user_id', 'CREATE UNIQUE INDEX idx_user_progress_user_id ON public.user_progress USING btree (user_id)', null, null),
    ('user_progress', 'comment', 'user_progress', 'Totals per user, rolled up from ended sessions by a trigger', null, null),
    ('user_api_keys', 'column', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('user_api_keys', 'column', 'user_id', 'uuid', true, null),
    ('user_api_keys', 'column', 'openai_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'unsplash_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'anthropic_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'last_validated_at', 'timestamp with time zone', false, null),
    ('user_api_keys', 'column', 'is_active', 'boolean', true, 'true'),
    ('user_api_keys', 'column', 'validation', 'jsonb', true, '''{}''::jsonb'),
    ('user_api_keys', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('user_api_keys', 'column', 'updated_at', 'timestamp with time zone', true, 'now()'),
    ('user_api_keys', 'check', 'ck_user_api_keys_anthropic_api_key_is_encrypted', 'CHECK (((anthropic_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text) AND (char_length(anthropic_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_openai_api_key_is_encrypted', 'CHECK (((openai_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text) AND (char_length(openai_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_unsplash_api_key_is_encrypted', 'CHECK (((unsplash_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text) AND (char_length(unsplash_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_validation_is_object', 'CHECK ((validation @> ''{}''::jsonb))', null, null),
    ('user_api_keys', 'foreign key', 'fk_user_api_keys_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_api_keys', 'primary key', 'pk_user_api_keys', 'PRIMARY KEY (id)', null, null),
    ('user_api_keys', 'index', 'idx_user_api_keys_user_id', 'CREATE UNIQUE INDEX idx_user_api_keys_user_id ON public.user_api_keys USING btree (user_id)', null, null),
    ('user_api_keys', 'comment', 'user_api_keys', 'Keys of users at other providers, encrypted before they reach the database', null, null),
    ('export_history', 'column', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('export_history', 'column', 'user_id', 'uuid', true, null),
    ('export_history', 'column', 'export_type', 'character varying(50)', true, null),
    ('export_history', 'column', 'export_format', 'character varying(20)', true, null),
    ('export_history', 'column', 'status', 'character varying(20)', true, '''pending''::character varying'),
    ('export_history', 'column', 'records_count', 'integer', true, '0'),
    ('export_history', 'column', 'file_size_bytes', 'bigint', false, null),
    ('export_history', 'column', 'file_url', 'text', false, null),
    ('export_history', 'column', 'filters', 'jsonb', false, null),
    ('export_history', 'column', 'data', 'jsonb', false, null),
    ('export_history', 'column', 'error_message', 'text', false, null),
    ('export_history', 'column', 'retry_count', 'integer', true, '0'),
    ('export_history', 'column', 'started_at', 'timestamp with time zone', false, null),
    ('export_history', 'column', 'completed_at', 'timestamp with time zone', false, null),
    ('export_history', 'column', 'processing_time_seconds', 'integer', false, null),
    ('export_history', 'column', 'expires_at', 'timestamp with time zone', false, null),
    ('export_history', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('export_history', 'column', 'updated_at', 'timestamp with time zone', true, 'now()'),
    ('export_history', 'check', 'ck_export_history_file_size_bytes_not_negative', 'CHECK ((file_size_bytes >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_filters_object_64_kb_32_levels', 'CHECK (((pg_column_size(filters) <= 131072) AND (filters @> ''{}''::jsonb) AND (NOT (filters @? ''$.**{33}''::jsonpath)) AND (NOT (filters @? ''strict $.**?((@ > 10000000000000000000000000000000000000000 || @ < -10000000000000000000000000000000000000000) || (@ != 0 && @ > -0.0000000000000000000000000000000000000001) && @ < 0.0000000000000000000000000000000000000001)''::jsonpath)) AND (octet_length((filters)::text) <= 65536)))', null, null),
    ('export_history', 'check', 'ck_export_history_records_count_not_negative', 'CHECK ((records_count >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_retry_count_not_negative', 'CHECK ((retry_count >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_status_is_known', 'CHECK (((status)::text = ANY (ARRAY[''pending''::text, ''processing''::text, ''completed''::text, ''failed''::text, ''expired''::text])))', null, null),
    ('export_history', 'foreign key', 'fk_export_history_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('export_history', 'primary key', 'pk_export_history', 'PRIMARY KEY (id)', null, null),
    ('export_history', 'index', 'idx_export_history_created_at', 'CREATE INDEX idx_export_history_created_at ON public.export_history USING btree (created_at DESC)', null, null),
    ('export_history', 'index', 'idx_export_history_expires_at', 'CREATE INDEX idx_export_history_expires_at ON public.export_history USING btree (expires_at) WHERE (expires_at IS NOT NULL)', null, null),
    ('export_history', 'index', 'idx_export_history_export_type', 'CREATE INDEX idx_export_history_export_type ON public.export_history USING btree (export_type)', null, null),
    ('export_history', 'index', 'idx_export_history_status', 'CREATE INDEX idx_export_history_status ON public.export_history USING btree (status)', null, null),
    ('export_history', 'index', 'idx_export_history_user_id', 'CREATE INDEX idx_export_history_user_id ON public.export_history USING btree (user_id, created_at DESC)', null, null),
    ('export_history', 'comment', 'export_history', 'Exports that users asked for, from pending to expired', null, null),
    ('user_profile_audit_logs', 'column', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('user_profile_audit_logs', 'column', 'user_id', 'uuid', false, null),
    ('user_profile_audit_logs', 'column', 'action', 'text', true, null),
    ('user_profile_audit_logs', 'column', 'origin', 'text', true, null),
    ('user_profile_audit_logs', 'column', 'actor', 'uuid', false, null),
    ('user_profile_audit_logs', 'column', 'changed', 'text[]', false, null),
    ('user_profile_audit_logs', 'column', 'error_code', 'text', false, null),
    ('user_profile_audit_logs', 'column', 'error_message', 'text', false, null),
    ('user_profile_audit_logs', 'column', 'retry_count', 'integer', true, '0'),
    ('user_profile_audit_logs', 'column', 'metadata', 'jsonb', true, '''{}''::jsonb'),
    ('user_profile_audit_logs', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_action_is_known', 'CHECK ((action = ANY (ARRAY[''created''::text, ''updated''::text, ''failed''::text, ''skipped''::text, ''repaired''::text, ''deleted''::text])))', null, null),
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_origin_is_known', 'CHECK ((origin = ANY (ARRAY[''trigger''::text, ''manual''::text, ''backfill''::text, ''registration''::text, ''sync''::text, ''normalize''::text])))', null, null),
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_retry_count_not_negative', 'CHECK ((retry_count >= 0))', null, null),
    ('user_profile_audit_logs', 'foreign key', 'fk_user_profile_audit_logs_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE SET NULL', null, null),
    ('user_profile_audit_logs', 'primary key', 'pk_user_profile_audit_logs', 'PRIMARY KEY (id)', null, null),
    ('user_profile_audit_logs', 'index', 'idx_user_profile_audit_logs_failures', 'CREATE INDEX idx_user_profile_audit_logs_failures ON public.user_profile_audit_logs USING btree (created_at DESC) WHERE (action = ANY (ARRAY[''failed''::text, ''skipped''::text]))', null, null),
    ('user_profile_audit_logs', 'index', 'idx_user_profile_audit_logs_user_id', 'CREATE INDEX idx_user_profile_audit_logs_user_id ON public.user_profile_audit_logs USING btree (user_id, created_at DESC)', null, null),
    ('user_profile_audit_logs', 'comment', 'user_profile_audit_logs', 'What happened to profiles: who, by which road, which columns; failures with their SQLSTATE', null, null)
$wanted_shape$;

revoke all on function profiles_internal.wanted_shape() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the operator answered to a question of the plan; null without an answer.
-- A question is a step of action 'question' with "id" (stable text), "found" (the evidence) and "answers" (an object: each
-- possible answer, and what it leads to). Whoever has a question returns it always, and asks here only to know what else
-- to return: adoption_plan() marks those that are answered, and so knows which answers no question needs.
-- Once an upgrade has begun, the answers that it began with count: they are kept in profiles_internal.adopted.
create or replace function profiles_internal.answer(p_id text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $answer$
declare
  kept text;
begin
  if to_regclass('profiles_internal.adopted') is not null then
    select a.data #>> '{}' into kept
    from profiles_internal.adopted as a where a.object_type = 'answer' and a.object_name = p_id;
  end if;
  return nullif(coalesce(kept, nullif(current_setting('profiles_schema.answers', true), '')::jsonb ->> p_id), '');
end
$answer$;

revoke all on function profiles_internal.answer(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
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
    ('phone', 40), ('bio', 4000), ('target_audience', 20000), ('business_context', 20000), ('master_system_prompt', 20000)
  ) as l (column_name, most)
  union all
  -- So are names, and they lose what cannot be seen; a line end becomes a space (profile_values does the same).
  select n.place, 'user_profiles', c.column_name, format(n.wrong, c.column_name),
    format($fitted$left(regexp_replace(translate(%I, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g'), 200)$fitted$, c.column_name),
    n.rule
  from unnest(array['display_name', 'first_name', 'last_name', 'company_name']) as c (column_name)
  cross join (values
    (10, 'char_length(%I) > 200', 'more than 200 characters: cut'),
    (11, $wrong$%I ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]'$wrong$, 'hidden characters: removed')
  ) as n (place, wrong, rule)
  union all
  -- An address is whole or worthless.
  select 20, 'user_profiles', u.column_name,
    format('not (%1$I ~ ''^(https?://|/[^/\\\s])'' and char_length(%1$I) <= 2048)', u.column_name), 'null::text',
    'no web address or path of up to 2048 characters: null'
  from unnest(array['avatar_url', 'profile_picture_url', 'logo_url']) as u (column_name)
  union all
  -- An empty field is no key; profiles_schema.operations.keys knows the same blanks.
  select 20, 'user_api_keys', k.column_name, format($wrong$btrim(%I, e' \t\n\r\f\x0b') = ''$wrong$, k.column_name), 'null::text', 'blank: null'
  from unnest(array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key']) as k (column_name)
  union all
  select 30, 'user_profiles', j.column_name,
    format('jsonb_typeof(%1$I) <> ''object'' or pg_column_size(%1$I) > 131072 or %1$I @? ''$.**{33}'' or %1$I @? %2$L or octet_length(%1$I::text) > 65536',
      j.column_name, 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'), '''{}''::jsonb',
    'no object of up to 64 kB and 32 levels: {}'
  from unnest(array['preferences', 'notification_settings']) as j (column_name)
  union all
  select 30, 'user_profiles', g.column_name, format('jsonb_typeof(%I) <> ''object''', g.column_name), 'null::jsonb', 'no object: null'
  from unnest(array[
    'personality_traits', 'appearance_traits', 'behavioral_metrics', 'cultural_attributes', 'analysis_summary', 'metadata'
  ]) as g (column_name)
  union all
  select 40, c.table_name, c.column_name, format('%I < 0', c.column_name), '0', 'below zero: 0'
  from (values
    ('user_profiles', 'login_count'), ('user_profiles', 'message_count'),
    ('user_progress', 'total_sessions'), ('user_progress', 'total_descriptions'), ('user_progress', 'total_images'),
    ('user_progress', 'total_questions_answered'), ('user_progress', 'total_correct_answers'),
    ('user_progress', 'total_vocabulary_learned'), ('user_progress', 'total_answer_seconds'),
    ('user_progress', 'total_time_spent_minutes'), ('user_progress', 'average_completion_time_seconds'),
    ('user_progress', 'current_streak_days'), ('user_progress', 'longest_streak_days'), ('user_progress', 'total_points'),
    ('user_progress', 'mastered_words_count'), ('user_progress', 'learning_words_count'), ('user_progress', 'new_words_count'),
    ('export_history', 'records_count'), ('export_history', 'retry_count'), ('user_profile_audit_logs', 'retry_count')
  ) as c (table_name, column_name)
  union all
  select * from (values
    (50, 'user_profiles', 'key_metrics', $rule$jsonb_typeof(key_metrics) not in ('array', 'null') and pg_column_size(key_metrics) <= 131000 and not key_metrics @? '$.**{32}' and not key_metrics @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))' and octet_length(jsonb_build_array(key_metrics)::text) <= 65536$rule$,
      'jsonb_build_array(key_metrics)', 'no array: an array of it'),
    (51, 'user_profiles', 'key_metrics', $rule$jsonb_typeof(key_metrics) <> 'array' or pg_column_size(key_metrics) > 131072 or key_metrics @? '$.**{33}' or key_metrics @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))' or octet_length(key_metrics::text) > 65536$rule$,
      '''[]''::jsonb', 'no array of up to 64 kB and 32 levels: []'),
    -- What nobody understands is shown to nobody.
    (52, 'user_profiles', 'profile_visibility', $rule$profile_visibility is null or profile_visibility not in ('public', 'private')$rule$,
      '''private''', 'neither public nor private: private'),
    (53, 'user_profiles', 'language', $rule$language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' and replace(language, '_', '-') ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' and char_length(language) <= 35$rule$,
      'replace(language, ''_'', ''-'')', 'underscores in a language tag: hyphens'),
    (54, 'user_profiles', 'language', $rule$not (language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' and char_length(language) <= 35)$rule$,
      '''en''', 'no language tag: en'),
    (55, 'user_profiles', 'timezone', 'timezone not in (select z.name from pg_timezone_names as z)', '''UTC''', 'no known time zone: UTC'),
    (56, 'user_profiles', 'referral_code',
      '(referral_code, id) in (select r.code, r.id from (select x.referral_code as code, x.id, row_number() over (partition by x.referral_code order by x.created_at, x.id) as n from {table} as x where x.referral_code is not null) as r where r.n > 1)',
      'null::text', 'somebody older has this referral code: null'),
    (57, 'user_profiles', 'external_id',
      '(external_id, id) in (select r.code, r.id from (select x.external_id as code, x.id, row_number() over (partition by x.external_id order by x.created_at, x.id) as n from {table} as x where x.external_id is not null) as r where r.n > 1)',
      'null::text', 'somebody older has this outside id: null'),
    (21, 'user_profiles', 'email', 'char_length(email) > 320', 'null::text', 'more than 320 characters: null'),
    (22, 'user_profiles', 'avatar_emoji', $rule$avatar_emoji !~ '^[^\u0001-\u001f&<>]{0,16}$'$rule$,
      $fitted$left(regexp_replace(avatar_emoji, '[\u0001-\u001f&<>]', '', 'g'), 16)$fitted$, 'more than 16 characters, or markup: cut'),
    (58, 'user_api_keys', 'validation', 'jsonb_typeof(validation) <> ''object''', '''{}''::jsonb', 'no object: {}'),
    (60, 'export_history', 'status', $rule$status not in ('pending', 'processing', 'completed', 'failed', 'expired')$rule$,
      '''failed''::character varying(20)', 'no known status: failed'),
    (61, 'export_history', 'file_size_bytes', 'file_size_bytes < 0', 'null::bigint', 'below zero: null'),
    (62, 'export_history', 'filters', $rule$jsonb_typeof(filters) <> 'object' or pg_column_size(filters) > 131072 or filters @? '$.**{33}' or filters @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))' or octet_length(filters::text) > 65536$rule$,
      'null::jsonb', 'no object of up to 64 kB and 32 levels: null'),
    (70, 'user_profile_audit_logs', 'user_id', 'user_id is not null and not exists (select from auth.users as u where u.id = user_id)',
      'null::uuid', 'no such user: null'),
    (71, 'user_profile_audit_logs', 'action', $rule$action is null or action not in ('created', 'updated', 'failed', 'skipped', 'repaired', 'deleted')$rule$,
      '''skipped''', 'no known action: skipped'),
    (72, 'user_profile_audit_logs', 'origin', $rule$origin is null or origin not in ('trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize')$rule$,
      '''manual''', 'no known origin: manual')
  ) as r (place, table_name, column_name, wrong, fitted, rule)
$adoption_rules$;

revoke all on function profiles_internal.adoption_rules() from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- The default of a column of ours that the application gave it, as it reads with our type, where our code can live with it:
-- a constant that keeps our rules. Null where ours takes its place.
create or replace function profiles_internal.kept_default(p_table text, p_column text, p_type text, p_found text)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $kept_default$
declare
  constant_value constant text := replace(substring(p_found from '^''((?:[^'']|'''')*)''(?:::[a-zA-Z0-9_."() ]+)?$'), '''''', '''');
  result constant text := format('%L::%s', constant_value, p_type);
  refused text;
  refuses boolean;
begin
  if p_table <> 'user_profiles' or constant_value is null or p_column <> all (
    array['role', 'language', 'timezone', 'profile_visibility', 'avatar_emoji', 'preferences', 'notification_settings', 'key_metrics']
  ) then
    return null;
  end if;
  select string_agg('(' || r.wrong || ')', ' or ') into refused
  from profiles_internal.adoption_rules() as r where r.table_name = p_table and r.column_name = p_column;
  execute format('select %s from (select %s as %I) as d', coalesce(refused, 'false'), result, p_column) into refuses;
  return case when not refuses then result end;
exception when data_exception then
  return null; -- no value of our type
end
$kept_default$;

revoke all on function profiles_internal.kept_default(text, text, text, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What hangs on a column besides its own table: views, policies of other tables, generated columns, triggers that name it,
-- functions with a parsed body, foreign keys that point to it. All of them follow a rename; none allows another type.
create or replace function profiles_internal.column_readers(p_table regclass, p_column text)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $column_readers$
  select coalesce(array_agg(distinct d.what order by d.what), '{}')
  from pg_attribute as a
  cross join lateral (
    select 'view ' || w.ev_class::regclass::text as what
    from pg_depend as x join pg_rewrite as w on w.oid = x.objid
    where x.classid = 'pg_rewrite'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and w.ev_class <> a.attrelid
    union all
    select 'policy "' || y.polname || '" on ' || y.polrelid::regclass
    from pg_depend as x join pg_policy as y on y.oid = x.objid
    where x.classid = 'pg_policy'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and y.polrelid <> a.attrelid
    union all
    select 'generated column ' || g.attname
    from pg_depend as x
    join pg_attrdef as f on f.oid = x.objid
    join pg_attribute as g on g.attrelid = f.adrelid and g.attnum = f.adnum and g.attgenerated <> ''
    where x.classid = 'pg_attrdef'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and g.attnum <> a.attnum
    union all
    select 'trigger ' || t.tgname
    from pg_depend as x join pg_trigger as t on t.oid = x.objid
    where x.classid = 'pg_trigger'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum and not t.tgisinternal
    union all
    select 'function ' || x.objid::regprocedure
    from pg_depend as x
    where x.classid = 'pg_proc'::regclass and x.refclassid = 'pg_class'::regclass
      and x.refobjid = a.attrelid and x.refobjsubid = a.attnum
    union all
    select 'foreign key ' || k.conname || ' of ' || k.conrelid::regclass
    from pg_constraint as k
    where k.contype = 'f' and k.confrelid = a.attrelid and a.attnum = any (k.confkey) and k.conparentid = 0
  ) as d
  where a.attrelid = p_table and a.attname = p_column
$column_readers$;

revoke all on function profiles_internal.column_readers(regclass, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- A function and those of the application's that it calls, directly or through others: what their texts name, and a bracket.
create or replace function profiles_internal.reached_functions(p_function oid)
returns table (function_id oid, body text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $reached_functions$
  with recursive reached as (
    select p_function as oid
    union
    select f.oid
    from reached as r
    cross join lateral (select coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) as body from pg_proc as p where p.oid = r.oid) as t
    cross join lateral regexp_matches(t.body, '("[^"]+"|\w+)\s*\(', 'g') as m (words)
    join pg_proc as f on f.proname = any (array[lower(m.words[1]), trim(m.words[1], '"')]::name[])
    join pg_language as l on l.oid = f.prolang
    where f.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
      and l.lanname not in ('internal', 'c')
  )
  -- What a comment says is not done.
  select p.oid, regexp_replace(regexp_replace(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), '/\*.*?\*/', ' ', 'g'), '--[^\n]*', '', 'g')
  from reached as r
  join pg_proc as p on p.oid = r.oid
$reached_functions$;

revoke all on function profiles_internal.reached_functions(oid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The tables that a function writes, itself or through others that it calls: those of ours, or all others. Their texts are
-- all there is to go by.
create or replace function profiles_internal.written_tables(p_function oid, p_ours boolean)
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $written_tables$
  select coalesce(array_agg(distinct w.name order by w.name), '{}')
  from profiles_internal.reached_functions(p_function) as f
  cross join lateral regexp_matches(
    f.body,
    '\m(insert\s+into|delete\s+from|merge\s+into|truncate(?:\s+table)?|update)\s+(only\s+)?((?:"[^"]+"|\w+)(?:\s*\.\s*(?:"[^"]+"|\w+))?)(?=[\s(;]|$)', 'gi'
  ) as m (words)
  cross join lateral (select regexp_replace(regexp_replace(replace(lower(m.words[3]), '"', ''), '\s*\.\s*', '.'), '^public\.', '')) as w (name)
  where w.name not in ('set', 'of', 'or', 'on', 'skip', 'nowait', 'loop', 'into', 'limit', 'returning', 'then')
    and p_ours = (w.name = any (array[
      'user_profiles', 'user_progress', 'user_api_keys', 'export_history', 'user_profile_audit_logs',
      lower(coalesce(current_setting('profiles_schema.adopt_table', true), ''))
    ]))
$written_tables$;

revoke all on function profiles_internal.written_tables(oid, boolean) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Whether a trigger function does what ours do: keeps updated_at and nothing else, or writes one of our tables. What its
-- text says is all there is to go by.
create or replace function profiles_internal.acts_beside_ours(p_function oid)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $acts_beside_ours$
  select f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0) and (
    regexp_replace(f.prosrc, '--[^\n]*', '', 'g')
      ~* '^\s*begin\s+new\.updated_at\s*:?=[^;]+;\s*return\s+new\s*;\s*end\s*;?\s*$'
    or cardinality(profiles_internal.written_tables(p_function, true)) > 0
    -- What an earlier step of the same upgrade has emptied.
    or f.prosrc like '%profiles_schema: set aside%'
  )
  from pg_proc as f
  where f.oid = p_function
$acts_beside_ours$;

revoke all on function profiles_internal.acts_beside_ours(oid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The statements that make a function as it is: its text, its comment, its owner and who may call it.
create or replace function profiles_internal.function_text(p_function oid)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $function_text$
  select concat_ws('; ',
    rtrim(pg_get_functiondef(f.oid)),
    case when f.proacl is not null then format('revoke all on routine %s from public, anon, authenticated, service_role', f.oid::regprocedure) end,
    (
      select string_agg(
        format('grant execute on routine %s to %s', f.oid::regprocedure, case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
          || case when a.is_grantable then ' with grant option' else '' end, '; '
      )
      from aclexplode(f.proacl) as a
      where a.grantee <> f.proowner
    ),
    'comment on routine ' || f.oid::regprocedure || ' is ' || quote_literal(obj_description(f.oid, 'pg_proc')),
    -- One with its owner's rights must not come back with more of them.
    case when pg_get_userbyid(f.proowner) <> current_user then format('alter routine %s owner to %I', f.oid::regprocedure, pg_get_userbyid(f.proowner)) end
  )
  from pg_proc as f
  where f.oid = p_function
$function_text$;

revoke all on function profiles_internal.function_text(oid) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The statements that make a policy as it is, on the table of another name if one is given, and as a restrictive one if
-- wanted: then not for all, but for the roles that ours are for.
create or replace function profiles_internal.policy_text(p_policy oid, p_table text default null, p_restricts boolean default false)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $policy_text$
  select concat_ws(' ',
    format('create policy %I on %s as %s for %s to %s', y.polname, coalesce(p_table, y.polrelid::regclass::text),
      case when y.polpermissive and not p_restricts then 'permissive' else 'restrictive' end,
      case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
      (select string_agg(case when r.role = 0 then case when p_restricts then 'anon, authenticated' else 'public' end else quote_ident(pg_get_userbyid(r.role)) end, ', ') from unnest(y.polroles) as r (role))
    ),
    'using (' || pg_get_expr(y.polqual, y.polrelid) || ')',
    'with check (' || pg_get_expr(y.polwithcheck, y.polrelid) || ')'
  )
    || coalesce('; comment on policy ' || quote_ident(y.polname) || ' on ' || coalesce(p_table, y.polrelid::regclass::text)
      || ' is ' || quote_literal(obj_description(y.oid, 'pg_policy')), '')
  from pg_policy as y
  where y.oid = p_policy
$policy_text$;

revoke all on function profiles_internal.policy_text(oid, text, boolean) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The statements that make a trigger as it is, on the table of another name if one is given.
create or replace function profiles_internal.trigger_text(p_trigger oid, p_table text default null)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $trigger_text$
  select replace(pg_get_triggerdef(t.oid), ' ON ' || t.tgrelid::regclass || ' ', ' ON ' || coalesce(p_table, t.tgrelid::regclass::text) || ' ')
    || case t.tgenabled when 'O' then '' else
      format('; alter table %s %s trigger %I', coalesce(p_table, t.tgrelid::regclass::text),
        case t.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end, t.tgname)
    end
    || coalesce('; comment on trigger ' || quote_ident(t.tgname) || ' on ' || coalesce(p_table, t.tgrelid::regclass::text)
      || ' is ' || quote_literal(obj_description(t.oid, 'pg_trigger')), '')
  from pg_trigger as t
  where t.oid = p_trigger
$trigger_text$;

revoke all on function profiles_internal.trigger_text(oid, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The columns of a table that is taken over: what each is called afterwards, and how its values get there and back.
-- "source" is an expression over {column} as found, "back" one over {column} as it is afterwards; both are null for a
-- column that keeps its type. A wanted column that was not found has no found_name; one of the application's own has no
-- wanted_type.
--
-- The id of a profile keeps its type if that is uuid, with everything on it; so does a role of any kind of text or enum; and
-- so does a text by another name (varchar, citext, a domain without rules) that holds all that we write: a sign-up must not
-- lose its profile to a long name. is_theirs: only the application writes the column, so its own limits stay, too.
-- Only these columns get another name, and take their foreign keys, views and policies along:
--   a user_id that is no uuid is the id of an outside system, and becomes external_id;
--   a key of another type than ours that something hangs on becomes legacy_id;
--   full_name becomes display_name where a view keeps the old name of the table.
create or replace function profiles_internal.adoption_columns(p_table text, p_found regclass)
returns table (
  name text, found_name text, found_type text, found_not_null boolean, found_default text, found_generated boolean,
  wanted_type text, wanted_not_null boolean, wanted_default text, source text, back text, found_position integer, is_theirs boolean
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_columns$
declare
  types jsonb;
  renames jsonb := '{}';
  user_type text;
  id_type text;
  all_uuids boolean := false;
begin
  select jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) into types
  from pg_attribute as a
  where a.attrelid = p_found and a.attnum > 0 and not a.attisdropped;
  user_type := types ->> 'user_id';
  id_type := types ->> 'id';

  if p_table = 'user_profiles' then
    if user_type <> 'uuid' and not types ? 'external_id' then
      execute format(
        'select coalesce(bool_and(t.user_id::text ~* ''^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$''), false) from %s as t where t.user_id is not null',
        p_found
      ) into all_uuids;
      if not all_uuids then
        renames := renames || '{"user_id": "external_id"}';
      end if;
    end if;
    -- Only where a view keeps the old name: everywhere else statements of the application would miss it.
    if types ? 'full_name' and not types ? 'display_name' and p_found::text <> 'public.user_profiles' then
      renames := renames || '{"full_name": "display_name"}';
    end if;
  end if;
  if id_type <> 'uuid' and not types ? 'legacy_id' and (
    (p_table = 'user_profiles' and id_type !~ '^(text|character)' and (
      cardinality(profiles_internal.column_readers(p_found, 'id')) > 0
      or exists (select from pg_attribute as a where a.attrelid = p_found and a.attname = 'id' and a.attidentity <> '')
    ))
    or (p_table <> 'user_profiles' and (
      id_type !~ '^(text|character)' or cardinality(profiles_internal.column_readers(p_found, 'id')) > 0
    ))
  ) then
    renames := renames || '{"id": "legacy_id"}';
  end if;

  return query
  with found as (
    select
      a.attname::text as found_name, coalesce(renames ->> a.attname, a.attname) as name, a.attnum::integer as found_position,
      format_type(a.atttypid, a.atttypmod) as found_type, a.attnotnull as not_null, a.attgenerated <> '' as generated,
      case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end as found_default,
      a.attidentity <> '' as has_identity, y.typcategory as category, y.typtype in ('e', 'd') as is_narrow,
      (select e.enumlabel::text from pg_enum as e where e.enumtypid = a.atttypid order by e.enumsortorder limit 1) as first_label,
      case when a.attcollation <> y.typcollation then ' collate ' || a.attcollation::regcollation else '' end as collated,
      -- Our rules are regular expressions, which other collations do not allow.
      (b.oid in ('text'::regtype, 'varchar'::regtype) or b.typname = 'citext' and b.typcategory = 'S')
        and not exists (select from pg_collation as o where o.oid = a.attcollation and not o.collisdeterministic)
        and not (y.typtype = 'd' and (y.typnotnull or exists (select from pg_constraint as k where k.contypid = y.oid))) as is_text,
      nullif(case when y.typtype = 'd' then y.typtypmod else a.atttypmod end, -1) - 4 as room
    from pg_attribute as a
    join pg_type as y on y.oid = a.atttypid
    join pg_type as b on b.oid = case when y.typtype = 'd' then y.typbasetype else y.oid end
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = p_found and a.attnum > 0 and not a.attisdropped
  ),
  wanted as (
    select w.name, case when k.keeps then f.found_type else w.definition end as wanted_type, w.not_null, k.keeps, t.is_theirs,
      case when k.keeps and w.default_value is not null then f.found_default else w.default_value end as default_value
    from profiles_internal.wanted_shape() as w
    left join found as f on f.name = w.name
    cross join lateral (
      select p_table = 'user_profiles' and w.name in (
        'avatar_emoji', 'bio', 'business_context', 'company_name', 'logo_url', 'master_system_prompt', 'profile_picture_url', 'role', 'target_audience'
      ) as is_theirs
    ) as t
    -- The most that our CHECK of the column admits.
    left join lateral (
      select max(coalesce(
        substring(c.definition from format('char_length\(%s\) <= (\d+)', w.name)),
        substring(c.definition from format('^CHECK \(\(%s ~ ''[^'']*,(\d+)\}\$''', w.name)))::integer) as characters
      from profiles_internal.wanted_shape() as c where c.table_name = p_table and c.kind = 'check'
    ) as m on f.room is not null
    cross join lateral (
      select p_table = 'user_profiles' and coalesce(
        w.name = 'id' and f.found_type = 'uuid'
        -- Nothing of ours writes a role, so any type serves that has a default for new profiles.
        or w.name = 'role' and f.category in ('S', 'E') and f.found_default is not null
        or w.name <> 'id' and w.definition = 'text' and f.is_text and f.name = f.found_name
          and (f.room is null or t.is_theirs or f.room >= m.characters)
          and (w.default_value is null or profiles_internal.kept_default(p_table, w.name, f.found_type, f.found_default) is not null),
        false
      ) as keeps
    ) as k
    where w.table_name = p_table and w.kind = 'column'
  )
  select
    coalesce(f.name, w.name), f.found_name,
    -- A type that is changed loses its collation, and has to find it again.
    f.found_type || case when f.found_type <> w.wanted_type then f.collated else '' end, f.not_null,
    coalesce(f.found_default, case when f.has_identity then 'identity' end), f.generated,
    w.wanted_type, w.not_null,
    case when w.keeps then w.default_value else coalesce(profiles_internal.kept_default(p_table, w.name, w.wanted_type, f.found_default), w.default_value) end,
    case
      when f.found_type = w.wanted_type or f.name is null then null
      when w.wanted_type = 'timestamp with time zone' then case
        when f.found_type = 'timestamp without time zone' then '{column} at time zone ''UTC'''
        when f.found_type = 'date' then '{column}::timestamp at time zone ''UTC'''
        when f.category = 'N' then 'case when {column} > 9224318015999 then ''infinity'' when {column} < -210866803200 then ''-infinity'' '
          'else to_timestamp({column}::double precision) end'
        else '{column}::timestamp with time zone'
      end
      when w.wanted_type = 'boolean' and f.category = 'N' then '({column} <> 0)'
      when w.wanted_type = 'jsonb' and f.category not in ('S', 'U') then 'to_jsonb({column})'
      when w.wanted_type ~ '^character varying' then '{column}::text::' || w.wanted_type
      else '{column}::' || w.wanted_type
    end,
    case
      when f.found_type = w.wanted_type or f.name is null then null
      when w.wanted_type = 'timestamp with time zone' then case
        when f.found_type = 'timestamp without time zone' then '{column} at time zone ''UTC'''
        when f.found_type = 'date' then '({column} at time zone ''UTC'')::date'
        when f.category = 'N' then 'case when isfinite({column}) then extract(epoch from {column}) end::' || f.found_type
        else '{column}::' || f.found_type
      end
      when w.wanted_type = 'boolean' and f.category = 'N' then '{column}::integer::' || f.found_type
      when w.wanted_type = 'jsonb' and f.category not in ('S', 'U') then null
      when f.is_narrow then format('profiles_internal.narrowed({column}::text, %L, %s)::%s', f.found_type,
        case when f.not_null then coalesce('(' || f.found_default || ')::text', quote_literal(f.first_label), 'null') else 'null' end, f.found_type)
      else '{column}::text::' || f.found_type
    end,
    f.found_position, coalesce(w.is_theirs, false)
  from found as f
  full join wanted as w on w.name = f.name
  order by f.found_position nulls last, w.name;
end
$adoption_columns$;

revoke all on function profiles_internal.adoption_columns(text, regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Which revision takes over, or else creates, which table; in their order.
create or replace function profiles_internal.adopting_revisions()
returns table (place integer, table_name text, revision text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $adopting_revisions$
  values
    (1, 'user_profiles', '0003_create_user_profiles'),
    (2, 'user_progress', '0004_create_user_progress'),
    (3, 'user_api_keys', '0005_create_user_api_keys'),
    (4, 'export_history', '0006_create_export_history'),
    (5, 'user_profile_audit_logs', '0007_create_audit_logs')
$adopting_revisions$;

revoke all on function profiles_internal.adopting_revisions() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Which columns of a table of profiles may say whose row it is, the likeliest first: how many users each one leads to
-- ("matches"), how many rows there are ("total"), and the user's id as an expression over t, the table as found.
-- One that is unique, never null and a foreign key to the users decides alone, without a look at the rows (counts are null).
-- Otherwise a column that leads to more users is the likelier one; of equal ones, one with a foreign key to the users, then user_id,
-- then id. A column of texts takes part if some of them are uuids. Where users are made by us (p_own), a row is its own
-- proof: there only a foreign key to the application's users, user_id and id count, in this order.
create or replace function profiles_internal.adoption_owners(p_found regclass, p_columns jsonb, p_own boolean)
returns table (column_name text, is_key boolean, matches bigint, total bigint, expression text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_owners$
declare
  users constant regclass := to_regclass('auth.users');
  identity constant regclass := to_regclass(nullif(current_setting('profiles_schema.identity', true), ''));
  names text[];
  keys boolean[];
  expressions text[];
  hits bigint[];
  decisive bigint[];
begin
  -- What stands against such a table is found elsewhere (adoption_stops).
  if not has_table_privilege(p_found, 'select') or not p_own and not has_table_privilege(users, 'select')
    or (select c.relkind from pg_class as c where c.oid = p_found) <> 'r'
  then
    return;
  end if;
  select array_agg(a.attname::text order by a.attnum), array_agg(k.is_key order by a.attnum), array_agg(
    case when a.atttypid = 'uuid'::regtype then format('t.%I', a.attname)
      else format('case when octet_length(t.%1$I::text) <= 36 and t.%1$I::text ~* ''^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'' then t.%1$I::text::uuid end', a.attname) end
    order by a.attnum)
  into names, keys, expressions
  from jsonb_array_elements(p_columns) as c
  join pg_attribute as a on a.attrelid = p_found and a.attname = c.value ->> 'found_name'
  cross join lateral (
    select exists (
      select from pg_constraint as f
      where f.conrelid = p_found and f.contype = 'f' and f.conkey = array[a.attnum] and f.confrelid in (users, identity)
    ) as is_key
  ) as k
  where a.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
    and c.value ->> 'name' <> 'external_id' and a.attgenerated = ''
    and (not p_own or k.is_key or a.attname in ('user_id', 'id'));
  if names is null then
    return;
  end if;
  select array_agg(e.place) into decisive
  from unnest(names, keys) with ordinality as e (name, is_key, place)
  where e.is_key and not p_own and exists (
    select from pg_attribute as a
    join pg_index as x on x.indrelid = a.attrelid and x.indisunique and x.indisvalid and x.indpred is null and x.indnkeyatts = 1 and x.indkey[0] = a.attnum
    where a.attrelid = p_found and a.attname = e.name and a.attnotnull
  );
  if cardinality(decisive) = 1 then
    return query select names[decisive[1]], true, null::bigint, null::bigint, expressions[decisive[1]];
    return;
  end if;
  execute format('select array[count(*), %s] from %s as t', (
    select string_agg(
      case when p_own then format('count(%s)', e.expression)
        else format('count(distinct (select u.id from auth.users as u where u.id = %s))', e.expression) end,
      ', ' order by e.place)
    from unnest(expressions) with ordinality as e (expression, place)
  ), p_found)
  into hits;
  return query
  select x.name, x.is_key, x.matches, hits[1], x.expression
  from rows from (unnest(names), unnest(keys), unnest(hits[2:]), unnest(expressions)) with ordinality as x (name, is_key, matches, expression, place)
  where x.matches > 0 or x.is_key or x.name in ('user_id', 'id')
  order by case when p_own then (x.matches > 0)::integer else x.matches end desc, x.is_key desc, x.name = 'user_id' desc, x.name = 'id' desc, x.place;
end
$adoption_owners$;

revoke all on function profiles_internal.adoption_owners(regclass, jsonb, boolean) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the steps of adoption need to know about one table, gathered once:
--   table, found (its name today), target (its name afterwards), by (the revision that takes it over),
--   columns (adoption_columns, as an array), by_name (the same, by the name afterwards),
--   own (users are made by us), makes_users (a user is made for every row),
--   owner (the column that says whose row it is), user (the user's id by it, over t, before and after columns are renamed),
--   conflicts (rows whose user_id is another user than that),
--   asks (where no value leads to a user: the columns that could say it, and what each leads to).
create or replace function profiles_internal.adoption_context(p_table text, p_found regclass)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_context$
declare
  columns jsonb;
  by_name jsonb;
  own constant boolean := to_regclass('auth.users') is null
    or coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%';
  owners jsonb := '[]';
  answered text;
  asks jsonb;
  owner text;
  user_id text;
  conflicts bigint := 0;
begin
  select jsonb_agg(to_jsonb(c) order by c.found_position, c.name), jsonb_object_agg(c.name, to_jsonb(c))
  into columns, by_name
  from profiles_internal.adoption_columns(p_table, p_found) as c;

  if p_table <> 'user_profiles' then
    owner := by_name -> 'user_id' ->> 'found_name';
    user_id := replace(coalesce(by_name -> 'user_id' ->> 'source', '{column}'), '{column}', 't.' || quote_ident(owner));
  else
    select coalesce(jsonb_agg(to_jsonb(o)), '[]') into owners
    from profiles_internal.adoption_owners(p_found, columns, own) as o;
    if (owners -> 0 ->> 'total')::bigint > 0 and (owners -> 0 ->> 'matches')::bigint = 0 then
      answered := profiles_internal.answer('key:public.' || p_table);
      select jsonb_object_agg(o.value ->> 'column_name', format('this column says whose row it is, and %s of %s rows go to quarantine',
        (o.value ->> 'total')::bigint - (o.value ->> 'matches')::bigint, o.value ->> 'total')) into asks
      from jsonb_array_elements(owners) as o;
      select jsonb_agg(o.value) into owners from jsonb_array_elements(owners) as o where o.value ->> 'column_name' = answered;
    end if;
    -- The id of an outside system: of a user whom we make.
    if by_name -> 'external_id' ->> 'found_name' = 'user_id' and (own or asks is not null or owners = '[]' or owners -> 0 ->> 'total' = '0') then
      owners := '[]';
      asks := null;
    end if;
    owner := owners -> 0 ->> 'column_name';
    user_id := owners -> 0 ->> 'expression';
    if owner <> 'user_id' and by_name -> 'user_id' ->> 'found_name' is not null then
      execute format('select count(*) from %s as t where t.user_id is not null and t.user_id::text is distinct from (%s)::text', p_found, user_id)
      into conflicts;
    end if;
    -- What a sign-up gives, and what fill_missing_profile_id gives: another value would be nobody.
    if owner = 'id' and by_name -> 'id' ->> 'wanted_type' = 'uuid' then
      by_name := jsonb_set(by_name, '{id,wanted_default}', 'null');
      select jsonb_agg(case when c.value ->> 'name' = 'id' then by_name -> 'id' else c.value end order by c.ordinality) into columns
      from jsonb_array_elements(columns) with ordinality as c;
    end if;
  end if;
  return jsonb_build_object(
    'table', p_table,
    'found', p_found::text,
    'target', 'public.' || p_table,
    'by', (select r.revision from profiles_internal.adopting_revisions() as r where r.table_name = p_table),
    'columns', columns,
    'by_name', by_name,
    'own', own,
    'makes_users', p_table = 'user_profiles' and owner is null and asks is null and by_name -> 'external_id' ->> 'found_name' is not null,
    'owner', owner,
    'user', user_id,
    'asks', asks,
    'conflicts', conflicts,
    -- The revision has begun: others wait, and nobody is asked about what little has changed since the whole plan was looked at.
    'locked', exists (select from pg_locks as l where l.relation = p_found and l.pid = pg_backend_pid() and l.mode = 'AccessExclusiveLock')
  );
end
$adoption_context$;

revoke all on function profiles_internal.adoption_context(text, regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The table that a revision would take over instead of creating one: of our name, or of the one that -x adopt-table
-- gives for user_profiles. Null where there is none, or where the revisions have made or taken over it already.
create or replace function profiles_internal.table_to_adopt(p_table text)
returns regclass
language sql
stable
set search_path = pg_catalog, pg_temp
as $table_to_adopt$
  select c.oid::regclass
  from pg_class as c
  cross join lateral (
    select nullif(current_setting('profiles_schema.adopt_table', true), '') as other_name
  ) as o
  where c.oid = coalesce(
      to_regclass('public.' || p_table),
      case when p_table = 'user_profiles' then to_regclass('public.' || quote_ident(o.other_name)) end
    )
    and obj_description(c.oid, 'pg_class') is distinct from (
      select w.definition from profiles_internal.wanted_shape() as w where w.table_name = p_table and w.kind = 'comment'
    )
$table_to_adopt$;

revoke all on function profiles_internal.table_to_adopt(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Why a table cannot be taken over as it is: what the catalog alone can say. One step of action 'stop' each.
create or replace function profiles_internal.adoption_stops(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_stops$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  defaults text[] := '{}';
  tested record;
  refuses boolean;
begin
  return query
  select jsonb_build_object('seq', 0, 'action', 'stop', 'object', target, 'found', s.found, 'wanted', s.wanted, 'remedy', s.remedy)
  from pg_class as c
  cross join lateral (values
    (c.relkind <> 'r', 'no ordinary table', 'an ordinary table',
      format('Rename %s, or move it to another schema.', relation)),
    (exists (select from pg_inherits as i where c.oid in (i.inhrelid, i.inhparent)), 'part of an inheritance',
      'a table of its own', format('Take %s out of the inheritance.', relation)),
    (not pg_has_role(c.relowner, 'usage'), 'owned by ' || pg_get_userbyid(c.relowner), 'owned by ' || current_user,
      format('Run the upgrade as %I, or as that role: alter table %s owner to %I;', pg_get_userbyid(c.relowner), relation, current_user)),
    (c.relkind = 'r' and exists (select from pg_rewrite as w where w.ev_class = c.oid), 'rewrite rules', 'none',
      format('Drop the rules of %s: they act instead of what is written.', relation)),
    (c.relkind = 'r' and p_context ->> 'user' is null and p_context ->> 'asks' is null and not (p_context ->> 'makes_users')::boolean, 'no column user_id', 'user_id uuid',
      format('Say whose rows they are: alter table %s add column user_id uuid;', relation)),
    -- What cannot be seen would be taken for what is not there.
    (pg_has_role(c.relowner, 'usage') and row_security_active(c.oid), 'row level security hides rows from ' || current_user, 'all rows seen',
      format('Let the owner see them: alter table %s no force row level security;', relation)),
    (row_security_active(to_regclass('auth.users')), 'row level security hides auth.users from ' || current_user, 'all users seen',
      format('An administrator runs: alter role %I bypassrls;', current_user))
  ) as s (applies, found, wanted, remedy)
  where c.oid = relation and s.applies;

  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', target || '.' || (c.value ->> 'name'),
    'found', c.value ->> 'found_type', 'wanted', c.value ->> 'wanted_type', 'remedy', s.remedy)
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (
    select profiles_internal.column_readers(relation, c.value ->> 'found_name') as readers
    where c.value ->> 'found_name' is not null and c.value ->> 'wanted_type' is not null
  ) as r
  cross join lateral (values
    (c.value ->> 'source' is not null and c.value ->> 'found_default' = 'identity',
      format('alter table %s alter column %I drop identity;', relation, c.value ->> 'found_name')),
    ((c.value ->> 'found_generated')::boolean,
      format('alter table %s alter column %I drop expression;', relation, c.value ->> 'found_name')),
    (c.value ->> 'source' is not null and cardinality(r.readers) > 0,
      'Its type has to change, and these hang on it: ' || array_to_string(r.readers, ', ')
        || '. Drop them, and create them again after the upgrade.'),
    (c.value ->> 'source' is not null and c.value ->> 'back' is null,
      format('There is no way back from %s. Change it yourself, or rename the column.', c.value ->> 'wanted_type'))
  ) as s (applies, remedy)
  where s.applies;

  -- What would not survive other columns.
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', target, 'found', format('%s.%s holds its rows as values', b.attrelid::regclass, b.attname),
    'wanted', 'a table of its own', 'remedy', format('Drop %s.%I, and create it again after the upgrade.', b.attrelid::regclass, b.attname))
  from pg_class as c
  join pg_type as y on y.oid = c.reltype
  join pg_attribute as b on b.atttypid in (y.oid, y.typarray) and b.attnum > 0 and not b.attisdropped
  join pg_class as o on o.oid = b.attrelid and o.relkind in ('r', 'm', 'p', 'f')
  where c.oid = relation;

  -- What takes or returns rows of a table that a view will stand for has other columns than the view.
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', 'function ' || f.oid::regprocedure, 'found', 'takes or returns rows of ' || relation,
    'wanted', 'columns of its own', 'remedy', 'After the upgrade a view has this name, and its rows have other columns than those of the table. '
      'Declare the columns (returns table (...)), or drop the function, and create it again after the upgrade.')
  from pg_class as c
  join pg_type as y on y.oid = c.reltype
  join pg_proc as f on array[f.prorettype] || f.proargtypes::oid[] && array[y.oid, y.typarray]
  where c.oid = relation and relation::text <> target;

  -- Rights that we could not take from the roles of the API: only who gave them can.
  return query
  select distinct jsonb_build_object('seq', 1, 'action', 'stop', 'object', target, 'found', format('rights given by %s', pg_get_userbyid(a.grantor)),
    'wanted', 'rights given by the owner', 'remedy',
    format('They would outlast ours. Take them back: set role %I; revoke all on %s from %s; reset role;', pg_get_userbyid(a.grantor), relation,
      case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end))
  from pg_class as c
  cross join lateral (
    select x.grantor, x.grantee from aclexplode(c.relacl) as x
    union all
    select x.grantor, x.grantee from pg_attribute as b cross join lateral aclexplode(b.attacl) as x
    where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped
  ) as a
  where c.oid = relation and a.grantor <> c.relowner
    and (a.grantee = 0 or pg_get_userbyid(a.grantee) in ('anon', 'authenticated', 'service_role'));
  return query
  select distinct jsonb_build_object('seq', 1, 'action', 'stop', 'object', target, 'found', format('%s has the rights of %s', m.rolname, pg_get_userbyid(a.grantee)),
    'wanted', 'rights of its own', 'remedy',
    format('It could write columns that are not for users to write. Take one of the two away: revoke %1$I from %2$I; or: revoke insert, update, delete on %3$s from %1$I;',
      pg_get_userbyid(a.grantee), m.rolname, relation))
  from pg_class as c
  cross join lateral (
    select x.grantee, x.privilege_type from aclexplode(c.relacl) as x
    union all
    select x.grantee, x.privilege_type from pg_attribute as b cross join lateral aclexplode(b.attacl) as x
    where b.attrelid = c.oid and b.attnum > 0 and not b.attisdropped
  ) as a
  join pg_roles as m on m.rolname in ('anon', 'authenticated')
  where c.oid = relation and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
    and pg_get_userbyid(a.grantee) not in ('anon', 'authenticated', 'service_role')
    and a.grantee not in (0, c.relowner) and pg_has_role(m.oid, a.grantee, 'usage');

  -- A name of ours that something else has.
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', 'public.' || w.name,
    'found', coalesce('an index of ' || x.indrelid::regclass, 'a relation of that name'), 'wanted', 'free, for ' || target,
    'remedy', 'Rename it: that name is needed.')
  from profiles_internal.wanted_shape() as w
  join pg_class as i on i.relname = w.name and i.relnamespace = 'public'::regnamespace
  left join pg_index as x on x.indexrelid = i.oid
  where w.table_name = p_context ->> 'table' and w.kind in ('index', 'unique', 'primary key') and x.indrelid is distinct from relation;

  -- Triggers that stay must not stumble over what changes.
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('trigger %s on %s', t.tgname, target),
    'found', format('reads %s', c.value ->> 'found_name'), 'wanted', 'nothing that changes',
    'remedy', format('%s reads a column whose name or type changes. Drop the trigger, and create it again, adapted, after the upgrade.', t.tgfoid::regprocedure))
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  join jsonb_array_elements(p_context -> 'columns') as c
    on (c.value ->> 'found_name' <> c.value ->> 'name' or c.value ->> 'source' is not null)
    and exists (
      select from profiles_internal.reached_functions(f.oid) as r
      where r.body ~* ('\m(new|old)"?\s*\.\s*"?' || (c.value ->> 'found_name') || '\M')
    )
  where t.tgrelid = relation and not t.tgisinternal and not profiles_internal.acts_beside_ours(t.tgfoid);

  -- Triggers that go must do nothing that ours do not do.
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('trigger %s on %s', t.tgname, target),
    'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours',
    'remedy', format('It would act beside ours, but it also writes %s. Move that into a trigger function of its own, which then stays.', array_to_string(w.others, ', ')))
  from pg_trigger as t
  cross join lateral (
    select profiles_internal.written_tables(t.tgfoid, false) || array(
      select distinct format('%s.%s', target, c.value ->> 'found_name')
      from jsonb_array_elements(p_context -> 'columns') as c
      join profiles_internal.reached_functions(t.tgfoid) as r on r.body ~* ('\m' || regexp_replace(c.value ->> 'found_name', '(\W)', '\\\1', 'g') || '\M')
      where c.value ->> 'wanted_type' is null
    ) as others
  ) as w
  where t.tgrelid = relation and not t.tgisinternal and profiles_internal.acts_beside_ours(t.tgfoid) and cardinality(w.others) > 0;

  -- Whoever reads the table past row level security today, and would not tomorrow.
  return query
  select jsonb_build_object('seq', 3, 'action', 'note', 'object', format('role %s', r.rolname), 'found', format('uses %s', relation),
    'wanted', 'row level security',
    'remedy', format('From now on row level security hides the rows of %s from %I. To let it act as service_role: grant service_role to %I;', target, r.rolname, r.rolname))
  from pg_class as c
  join pg_roles as r on exists (select from aclexplode(c.relacl) as a where a.grantee = r.oid)
  where c.oid = relation and not c.relrowsecurity and not r.rolsuper and not r.rolbypassrls
    and not pg_has_role(r.oid, c.relowner, 'usage') and r.rolname not in ('anon', 'authenticated', 'service_role');
  -- Without an auth server nobody but the application makes users.
  if p_context ->> 'table' = 'user_profiles' and (p_context ->> 'own')::boolean and p_context ->> 'owner' is not null then
    return next jsonb_build_object('seq', 3, 'action', 'note', 'object', target, 'found', 'profiles without users', 'wanted', 'a user for every profile',
      'remedy', format('From now on an INSERT into %s fails for a person who is not in auth.users (SQLSTATE 23502 or 23503). To make a profile, call '
        'public.create_user(email => …), which makes the user and the profile and returns the id; then update the profile.', relation));
  end if;
  -- A profile made at sign-up leaves the application's own columns at their defaults. Whatever refuses that costs the profile.
  for tested in
    select a.attname, a.attnotnull, d.adbin is not null as has_default, format_type(a.atttypid, a.atttypmod) as type, coalesce(pg_get_expr(d.adbin, d.adrelid), 'null') as default_value
    from jsonb_array_elements(p_context -> 'columns') as c
    join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.value ->> 'wanted_type' is null and a.attgenerated = '' and a.attidentity = ''
  loop
    continue when tested.default_value ~ '\mnextval\(';
    defaults := defaults || format('(%s)::%s as %I', tested.default_value, tested.type, tested.attname);
    begin
      execute format('select ((%s)::%s)::text is null', tested.default_value, tested.type) into refuses;
      -- Without a default, NOT NULL is relaxed.
      if refuses and tested.attnotnull and tested.has_default and p_context ->> 'table' in ('user_profiles', 'user_progress') then
        return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, tested.attname),
          'found', 'not null, default ' || tested.default_value, 'wanted', 'a default that is not null when nobody is signed in',
          'remedy', format('At a sign-up there are no claims, and the default is null: no new user would have a profile. '
            'Give it another default, or: alter table %s alter column %I drop not null;', relation, tested.attname));
      end if;
    exception when integrity_constraint_violation then
      return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, tested.attname), 'found', tested.type,
        'wanted', 'a default that it allows', 'remedy', 'A sign-up leaves it at its default, which its type refuses. Give it another default, or another type.');
    when others then
      null; -- Trial sign-ups show it, see try_sign_ups.
    end;
  end loop;
  for tested in
    select k.conname, pg_get_constraintdef(k.oid) as definition, pg_get_expr(k.conbin, k.conrelid) as expression
    from pg_constraint as k
    where k.conrelid = relation and k.contype = 'c' and not exists (
      select from jsonb_array_elements(p_context -> 'columns') as c
      join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name' and a.attnum = any (k.conkey)
      where c.value ->> 'wanted_type' is not null
    )
  loop
    begin
      execute format('select (%s) is false from (select %s) as t', tested.expression, array_to_string(defaults, ', ')) into refuses;
    exception when others then
      -- It asks for what only a row has.
      refuses := false;
    end;
    if refuses then
      return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, tested.conname), 'found', tested.definition,
        'wanted', 'one that the defaults keep', 'remedy', 'A sign-up leaves these columns at their defaults, which this refuses. Give them other defaults, or drop it.');
    end if;
  end loop;
  return query
  select jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, i.relname), 'found', pg_get_indexdef(i.oid),
    'wanted', 'room for more than one profile', 'remedy', 'Every sign-up leaves these columns at the same default. Drop the default, or make the index one that allows it.')
  from pg_index as x
  join pg_class as i on i.oid = x.indexrelid
  cross join lateral (
    select
      bool_and(c.value ->> 'wanted_type' is null and a.attgenerated = '' and a.attidentity = '') as own,
      bool_and(d.adbin is not null and d.expression !~ '\w\(' or d.adbin is null and x.indnullsnotdistinct) as same
    from unnest(x.indkey) with ordinality as n (attnum, place)
    left join pg_attribute as a on a.attrelid = relation and a.attnum = n.attnum
    left join jsonb_array_elements(p_context -> 'columns') as c on c.value ->> 'found_name' = a.attname
    left join lateral (
      select f.adbin, regexp_replace(pg_get_expr(f.adbin, f.adrelid), '::[a-z ]+\([0-9, ]+\)', '', 'g') as expression
      from pg_attrdef as f where f.adrelid = a.attrelid and f.adnum = a.attnum
    ) as d on true
    where n.place <= x.indnkeyatts
  ) as k
  where x.indrelid = relation and x.indisunique and x.indexprs is null and x.indpred is null and k.own and k.same;
  return query
  select jsonb_build_object('seq', 3, 'action', 'note', 'object', format('trigger %s on %s', t.tgname, target), 'found', 'calls ' || t.tgfoid::regprocedure,
    'wanted', 'stays', 'remedy', 'It runs at every sign-up, too. What it refuses costs that user the profile until it is mended: see profiles-schema health.')
  from pg_trigger as t
  where t.tgrelid = relation and not t.tgisinternal and t.tgtype & 4 <> 0 and p_context ->> 'table' in ('user_profiles', 'user_progress')
    and not profiles_internal.acts_beside_ours(t.tgfoid);
end
$adoption_stops$;

revoke all on function profiles_internal.adoption_stops(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the rows of a table need, counted in as few passes as there are kinds of rules:
--   total; fits (rule and hits, for columns that were found); names (usernames that break the rule or are not alone);
--   reasons (why rows cannot stay, and how many); aside (their sum); misplaced (an SQL query of row_id and reason);
--   broken (columns whose values do not convert, with the SQLSTATE); plain_keys.
create or replace function profiles_internal.adoption_counts(p_context jsonb)
returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_counts$
declare
  relation constant regclass := p_context ->> 'found';
  table_name constant text := p_context ->> 'table';
  by_name constant jsonb := p_context -> 'by_name';
  user_id constant text := p_context ->> 'user';
  as_wanted constant text := (
    select string_agg(
      format('%s as %I',
        case
          when c.value ->> 'found_name' is null and c.value ->> 'name' = 'id' then 'ctid::text'
          when c.value ->> 'found_name' is null then 'null::' || (c.value ->> 'wanted_type')
          else replace(coalesce(c.value ->> 'source', '{column}'), '{column}', quote_ident(c.value ->> 'found_name'))
        end,
        c.value ->> 'name'),
      ', ')
    from jsonb_array_elements(p_context -> 'columns') as c
  );
  rules jsonb;
  hits bigint[];
  reasons text;
  misplaced text;
  aside jsonb;
  broken jsonb := '[]';
  names bigint;
  plain_keys bigint;
  tested record;
  -- A key that nothing keeps unique.
  key_name constant text := (
    select c ->> 'found_name'
    from (values (by_name -> 'id')) as v (c)
    where c ->> 'found_name' is not null and not exists (
      select from pg_index as x
      join pg_attribute as a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
      where x.indrelid = relation and x.indisunique and x.indisvalid and x.indimmediate and x.indpred is null and x.indnkeyatts = 1
        and a.attname = c ->> 'found_name' and (a.attnotnull or p_context ->> 'table' = 'user_profile_audit_logs')
    )
  );
begin
  select coalesce(jsonb_agg(to_jsonb(r) order by r.column_name, r.place), '[]') into rules
  from (
    select u.place, u.column_name, u.wrong, u.fitted, u.rule
    from profiles_internal.adoption_rules() as u
    where u.table_name = p_context ->> 'table' and by_name -> u.column_name ->> 'found_name' is not null
      and (u.column_name <> 'user_id' or to_regclass('auth.users') is not null)
      -- A key that cannot be null is text to encrypt, blank or not.
      and not (u.table_name = 'user_api_keys' and u.fitted = 'null::text' and (by_name -> u.column_name ->> 'found_not_null')::boolean)
    union all
    select 1000, c.key, format('%I is null', c.key), c.value ->> 'wanted_default', 'null: ' || (c.value ->> 'wanted_default')
    from jsonb_each(by_name) as c
    where (c.value ->> 'wanted_not_null')::boolean and c.value ->> 'wanted_default' is not null
      and c.value ->> 'found_name' is not null and c.key not in ('id', 'profile_visibility')
  ) as r;

  begin
    execute format(
      'with s as (select %s from %s) select array[count(*)%s%s] from s', as_wanted, relation,
      (
        select string_agg(format(', count(*) filter (where %s)', replace(r.value ->> 'wrong', '{table}', 's')), '' order by r.ordinality)
        from jsonb_array_elements(rules) with ordinality as r
      ),
      -- A column that nobody asks for would not be converted at all.
      (
        select string_agg(format(', count(%I)', c.value ->> 'name'), '')
        from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'source' is not null
      )
    ) into hits;
  exception when data_exception or cannot_coerce or datatype_mismatch or undefined_function then
    -- Some column does not convert: which one, is found one by one.
    for tested in
      select c.value ->> 'name' as name, replace(c.value ->> 'source', '{column}', quote_ident(c.value ->> 'found_name')) as source
      from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'source' is not null
    loop
      begin
        execute format('select count(%s) from %s', tested.source, relation);
      exception when others then
        broken := broken || jsonb_build_object('column', tested.name, 'code', sqlstate);
      end;
    end loop;
    if broken = '[]' then
      raise;
    end if;
    return jsonb_build_object('broken', broken);
  end;

  if by_name -> 'username' ->> 'found_name' is not null then
    execute format(
      'with s as (select %s from %s) select count(*) from (select username ~ ''^[a-z0-9_.-]{3,32}$'' as fits, '
        || 'row_number() over (partition by lower(username) order by username collate "C" desc) as nth from s) as n where fits is not true or nth > 1',
      as_wanted, relation
    ) into names;
  elsif table_name = 'user_profiles' then
    names := hits[1];
  end if;

  if table_name = 'user_api_keys' then
    execute format(
      'with s as (select %s from %s) select count(*) from s where least(%s) = false', as_wanted, relation,
      (
        select string_agg(format(
          case when (by_name -> k.name ->> 'found_not_null')::boolean then $kept$%I ~ %L$kept$
            else $blank$nullif(btrim(%I, e' \t\n\r\f\x0b'), '') ~ %L$blank$ end,
          k.name, '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$'), ', ')
        from unnest(array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key']) as k (name)
      )
    ) into plain_keys;
  end if;

  -- Rows that cannot stay. The log keeps its rows and forgets the user.
  if table_name <> 'user_profile_audit_logs' then
    reasons := concat_ws(' ',
      case when user_id is not null then 'when "adopted user" is null then ''no user_id''' end,
      case when user_id is not null and not (p_context ->> 'own')::boolean
        then 'when not exists (select from auth.users as x where x.id = "adopted user") then ''no user in auth.users''' end,
      case when user_id is not null and table_name <> 'export_history' then 'when "adopted nth" > 1 then ''second row of the same user''' end,
      case when key_name is not null then format('when r.%I is null then ''no id'' when "adopted nth id" > 1 then ''second row of the same id''', key_name) end,
      (
        select string_agg(
          format('when r.%I is null then %L', c.value ->> 'found_name', 'no ' || c.key), ' '
        )
        from jsonb_each(by_name) as c
        where (c.value ->> 'wanted_not_null')::boolean and c.value ->> 'wanted_default' is null
          and c.value ->> 'found_name' is not null and not (c.value ->> 'found_not_null')::boolean
          and c.key not in ('id', 'user_id', 'username')
      )
    );
  end if;
  if reasons <> '' then
    misplaced := format(
      'select r.ctid as row_id, case %s end as reason from (select t.ctid, t.*, %s as "adopted user", row_number() over (partition by %s order by %s t.ctid) as "adopted nth", '
        '%s as "adopted nth id" from {table} as t) as r',
      reasons, coalesce(user_id, 'null::uuid'), coalesce(user_id, 't.ctid'),
      (
        select string_agg(format('t.%I, ', c.value ->> 'found_name'), '' order by c.key)
        from jsonb_each(by_name) as c where c.key in ('created_at', 'id') and c.value ->> 'found_name' is not null
      ),
      case when key_name is null then '1' else format('row_number() over (partition by t.%I order by t.ctid)', key_name) end
    );
    execute format(
      'select coalesce(jsonb_agg(to_jsonb(g)), ''[]'') from (select m.reason, count(*) as hits from (%s) as m where m.reason is not null group by m.reason order by m.reason) as g',
      replace(misplaced, '{table}', relation::text)
    ) into aside;
  end if;

  return jsonb_build_object(
    'total', hits[1],
    'bytes', pg_relation_size(relation),
    'fits', (
      select coalesce(jsonb_agg(r.value || jsonb_build_object('hits', hits[1 + r.ordinality]) order by r.ordinality), '[]')
      from jsonb_array_elements(rules) with ordinality as r where hits[1 + r.ordinality] > 0
    ),
    'names', coalesce(names, 0),
    'plain_keys', coalesce(plain_keys, 0),
    'reasons', coalesce(aside, '[]'),
    'aside', (select coalesce(sum((g.value ->> 'hits')::bigint), 0) from jsonb_array_elements(aside) as g),
    'misplaced', misplaced,
    'broken', broken
  );
end
$adoption_counts$;

revoke all on function profiles_internal.adoption_counts(jsonb) from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- Types and defaults of the application that stay on columns of ours. They are on record, so that a comparison with what is
-- declared accepts them; defaults that cannot stay are named.
create or replace function profiles_internal.adoption_defaults(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_defaults$
declare
  target constant text := p_context ->> 'target';
  constant_function constant text := 'create or replace function profiles_internal.default_%s() returns text language plpgsql immutable '
    'set search_path = pg_catalog, pg_temp as $default$' || E'\nbegin\n  return %s;\nend\n' || '$default$';
begin
  return query
  select jsonb_build_object('seq', 92, 'action', 'note', 'object', format('%s.%s', target, c.value ->> 'name'),
    'found', concat_ws(' ', nullif(c.value ->> 'wanted_type', w.definition), 'default ' || (c.value ->> 'found_default')),
    'wanted', case when k.stays then 'stays' else coalesce('default ' || w.default_value, 'no default') end,
    'remedy', case when d.same then null when k.stays then 'New profiles get the default of the application, not ours: ' || w.default_value
      else 'New profiles get our default. That of the application is no constant, or breaks a rule of this column; a downgrade brings it back.' end,
    'statement', case when k.stays then format(
      'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''kept column'', %L, %L)',
      p_context ->> 'by', format('%s.%s', target, c.value ->> 'name'), jsonb_build_object(
        'found', concat_ws(' ', c.value ->> 'wanted_type', case when w.not_null then 'not null' end, 'default ' || (c.value ->> 'wanted_default')),
        'declared', concat_ws(' ', w.definition, case when w.not_null then 'not null' end, 'default ' || w.default_value)))
      || case when w.name in ('language', 'timezone') then '; ' || format(constant_function, w.name, c.value ->> 'wanted_default') else '' end end,
    'undo', case when k.stays and w.name in ('language', 'timezone') then format(constant_function, w.name, w.default_value) end)
  from jsonb_array_elements(p_context -> 'columns') as c
  join profiles_internal.wanted_shape() as w
    on w.table_name = p_context ->> 'table' and w.kind = 'column' and w.name = c.value ->> 'name'
  cross join lateral (
    select c.value ->> 'wanted_type' <> w.definition or c.value ->> 'wanted_default' is distinct from w.default_value as stays
  ) as k
  cross join lateral (
    select coalesce(w.default_value is null or c.value ->> 'found_default' in ('identity', 'NULL::' || (c.value ->> 'found_type'))
      or regexp_replace(c.value ->> 'found_default', '::.*$', '') = regexp_replace(w.default_value, '::.*$', ''), true) as same
  ) as d
  where p_context ->> 'table' = 'user_profiles' and w.name <> 'id' and (
    c.value ->> 'wanted_type' <> w.definition
    or not d.same and w.name in ('role', 'language', 'timezone', 'profile_visibility', 'avatar_emoji', 'preferences', 'notification_settings', 'key_metrics')
  );
end
$adoption_defaults$;

revoke all on function profiles_internal.adoption_defaults(jsonb) from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- How much slower than the machine on which adoption was measured this server is: up to two thousand rows of the table go
-- through the very conversion three times, into a table of our own that is rolled back each time (written, rewritten,
-- indexed). Null where that says nothing or cannot be had: fewer than a thousand rows, a read-only transaction. Zero under the
-- lock of the table: others wait for it, and nobody is asked any more.
create or replace function profiles_internal.adoption_pace(p_context jsonb, p_counts jsonb)
returns double precision
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_pace$
declare
  table_found constant regclass := p_context ->> 'found';
  total constant bigint := p_counts ->> 'total';
  -- Seconds for a row and a byte, where adoption was measured, by this very sample.
  reference constant double precision := 0.00005 + (p_counts ->> 'bytes')::bigint * 0.00000005 / greatest(total, 1);
  converted constant text := (
    select string_agg(
      format('%s as %I',
        case when c.value ->> 'found_name' is null then 'null::' || (c.value ->> 'wanted_type')
          else replace(coalesce(c.value ->> 'source', '{column}'), '{column}', 't.' || quote_ident(c.value ->> 'found_name')) end,
        c.value ->> 'name'), ', ')
    from jsonb_array_elements(p_context -> 'columns') as c
  );
  whole constant double precision := 3.6;
  sampled bigint;
  began timestamptz;
  took double precision[] := '{}';
begin
  if (p_context ->> 'locked')::boolean then
    return 0;
  elsif total < 1000 or current_setting('transaction_read_only') = 'on' then
    return null;
  end if;
  for n in 1..3 loop
    begin
      began := clock_timestamp();
      execute format('create table profiles_internal.adoption_sample as select t.* from %s as t limit 2000', table_found);
      get diagnostics sampled = row_count;
      execute format('create table profiles_internal.adoption_sample_converted as select t.ctid::text as row_key, %s from profiles_internal.adoption_sample as t', converted);
      update profiles_internal.adoption_sample_converted set row_key = row_key || ' ';
      create unique index on profiles_internal.adoption_sample_converted (row_key);
      took := took || (extract(epoch from clock_timestamp() - began)::double precision / sampled);
      raise exception 'sampled' using errcode = 'PRTRY';
    exception
      when sqlstate 'PRTRY' then
        null;
      when others then
        return null;
    end;
  end loop;
  -- The middle one: the first meets cold buffers, another one a checkpoint. With all indexes, CHECKs and counts a row takes
  -- that many times what it takes here (benchmarks/adopt.py).
  return whole * (select t.took from unnest(took) as t (took) order by t.took offset 1 limit 1) / reference;
end
$adoption_pace$;

revoke all on function profiles_internal.adoption_pace(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- The application's own columns that a sign-up cannot fill: NOT NULL, and nothing gives them a value. Whether they may be
-- null from then on is a question (required:TABLE.COLUMN).
create or replace function profiles_internal.required_columns(p_context jsonb)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $required_columns$
  select array(
    select c.value ->> 'found_name'
    from jsonb_array_elements(p_context -> 'columns') as c
    where p_context ->> 'table' in ('user_profiles', 'user_progress') and c.value ->> 'wanted_type' is null
      and (c.value ->> 'found_not_null')::boolean and c.value ->> 'found_default' is null and not (c.value ->> 'found_generated')::boolean
      and c.value ->> 'found_name' is distinct from p_context ->> 'owner'
    order by c.value ->> 'found_name' collate "C"
  )
$required_columns$;

revoke all on function profiles_internal.required_columns(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Whether so many rows of a table would go to quarantine that somebody has to agree: more than ten, or more than one in a
-- hundred. The evidence are their number, the reasons, and the keys of up to three rows; nothing else of a row is shown.
create or replace function profiles_internal.adoption_quarantine(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_quarantine$
declare
  target constant text := p_context ->> 'target';
  total constant bigint := p_counts ->> 'total';
  aside constant bigint := p_counts ->> 'aside';
  key_name constant text := (
    select c.value ->> 'found_name'
    from jsonb_array_elements(p_context -> 'columns') as c
    where c.value ->> 'found_name' in ('id', 'user_id', p_context ->> 'owner') and c.value ->> 'found_type' in ('uuid', 'bigint', 'integer')
    order by c.value ->> 'found_name' limit 1
  );
  examples text;
  -- The application goes on until the lock, and a row more must not stop the upgrade half-way.
  slack constant integer := case when (p_context ->> 'locked')::boolean then 10 else 1 end;
begin
  if aside is null or aside <= 10 * slack and aside * 100 <= total * slack then
    return;
  end if;
  if key_name is not null then
    execute format(
      'select string_agg(e.key, '', '' order by e.key) from (select t.%1$I::text as key from %2$s as t join (%3$s) as m on m.row_id = t.ctid '
      'where m.reason is not null and t.%1$I is not null order by 1 limit 3) as e',
      key_name, p_context ->> 'found', replace(p_counts ->> 'misplaced', '{table}', p_context ->> 'found')
    ) into examples;
  end if;
  return next jsonb_build_object('seq', 2, 'action', 'question', 'id', 'quarantine:' || target, 'object', target, 'rows', aside,
    'found', concat_ws('; ',
      format('%s of %s rows cannot stay: %s', aside, total, (
        select string_agg(format('%s (%s)', g.value ->> 'reason', g.value ->> 'hits'), ', ' order by (g.value ->> 'hits')::bigint desc, g.value ->> 'reason')
        from jsonb_array_elements(p_counts -> 'reasons') as g
      )),
      'for example ' || key_name || ' ' || examples),
    'answers', jsonb_build_object('quarantine',
      format('these rows are moved to profiles_internal.quarantine: the application no longer finds them in %s, and a downgrade brings them back', target)));
end
$adoption_quarantine$;

revoke all on function profiles_internal.adoption_quarantine(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- Addresses, and what is said of their proof, that the auth server contradicts: the profile follows the auth server from
-- the user's next sign-in on, so what the application had is kept, and comes back with a downgrade. A phone is the
-- person's own, and stays; so does an address where the auth server has none.
create or replace function profiles_internal.adoption_contacts(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_contacts$
declare
  target constant text := p_context ->> 'target';
  proved constant text := case
    when exists (
      select from pg_attribute as a
      where a.attrelid = to_regclass('auth.users') and a.attname = 'email_confirmed_at' and not a.attisdropped
    ) then '(coalesce(u.email, '''') <> '''' and u.email_confirmed_at is not null)'
    else 'false'
  end;
  contact record;
  hits bigint;
begin
  if p_context ->> 'table' <> 'user_profiles' or (p_context ->> 'makes_users')::boolean or to_regclass('auth.users') is null then
    return;
  end if;
  for contact in
    select c.name, c.known, c.contradicted,
      replace(coalesce(x.column ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.column ->> 'found_name')) as found
    from (values
      ('email', 'u.email', '{value}::text <> u.email::text and u.email <> '''''),
      ('email_verified', proved, '{value} is distinct from ' || proved)
    ) as c (name, known, contradicted)
    cross join lateral (select p_context -> 'by_name' -> c.name) as x ("column")
    where x.column ->> 'found_name' is not null
  loop
    execute format('select count(*) from %s as t join auth.users as u on u.id = %s where %s',
      p_context ->> 'found', p_context ->> 'user', replace(contact.contradicted, '{value}', contact.found)) into hits;
    continue when hits = 0;
    return next jsonb_build_object('seq', 86, 'action', 'note', 'object', format('%s.%s', target, contact.name),
      'found', 'not what auth.users says', 'wanted', 'what auth.users says, from the next sign-in on', 'rows', hits,
      'remedy', format('%s %s: %s follows auth.users. What the application has is kept in profiles_internal.adopted '
        '(object_type ''kept value''), and comes back with a downgrade.',
        hits, case hits when 1 then 'row' else 'rows' end, contact.name),
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %1$L, ''kept value'', %2$L, jsonb_build_object(''key'', t.id::text, ''old'', t.%3$I::text, ''new'', (%4$s)::text) '
        'from %5$s as t join auth.users as u on u.id = t.user_id where %6$s',
        p_context ->> 'by', format('%s.%s', target, contact.name), contact.name, contact.known, target,
        replace(contact.contradicted, '{value}', 't.' || contact.name)),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''kept value'')', p_context ->> 'by', target));
  end loop;
end
$adoption_contacts$;

revoke all on function profiles_internal.adoption_contacts(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The names of our functions in schema public. One of the application that bears such a name is set aside.
create or replace function profiles_internal.our_public_functions()
returns name[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $our_public_functions$
  select array[
    'create_user', 'ensure_user_profile', 'gen_available_username', 'get_my_profile_v2', 'get_public_profile',
    'get_user_profile_stats', 'update_my_profile_v2'
  ]::name[]
$our_public_functions$;

revoke all on function profiles_internal.our_public_functions() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What reads a table: views, functions, rules, and policies of other tables, directly or through one another. The catalog
-- knows views, policies and SQL-standard bodies; of other functions there is only the text. as_owner: it reads with the
-- rights of an owner whom row level security does not bind, so no policy changes what it finds.
create or replace function profiles_internal.table_readers(p_table regclass)
returns table (object oid, name text, as_owner boolean)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $table_readers$
declare
  unbound constant oid[] := array(
    select r.oid
    from pg_roles as r join pg_class as c on c.oid = p_table
    where r.rolsuper or r.rolbypassrls or not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage')
  );
  -- Those that read as whoever asks are followed to what reads through them.
  relations oid[] := array[p_table::oid];
  functions oid[] := '{}';
  bound_relations oid[];
  bound_functions oid[];
  found_relations oid[] := relations;
  found_functions oid[] := '{}';
  asking oid[] := relations;
  names text;
begin
  loop
    select string_agg(
      format('(?<![.\w"])("?%s"?\s*\.\s*)?"?%s"?(?![\w"])',
        regexp_replace(n.nspname, '(\W)', '\\\1', 'g'), regexp_replace(c.relname, '(\W)', '\\\1', 'g')), '|')
    into names
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = any (relations);

    select array_agg(distinct c.oid), array_agg(distinct c.oid) filter (where c.relkind = 'v' and (s.by_asker or c.relowner <> all (unbound)))
    into bound_relations, relations
    from pg_depend as d
    join pg_rewrite as w on w.oid = d.objid
    join pg_class as c on c.oid = w.ev_class and c.relkind in ('v', 'm')
    cross join lateral (
      select exists (select from pg_options_to_table(c.reloptions) as o where o.option_name = 'security_invoker' and o.option_value::boolean) as by_asker
    ) as s
    where d.classid = 'pg_rewrite'::regclass and c.oid <> all (found_relations)
      and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (relations) or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (functions));

    select array_agg(f.oid), array_agg(f.oid) filter (where not f.prosecdef or f.proowner <> all (unbound))
    into bound_functions, functions
    from pg_proc as f
    join pg_language as l on l.oid = f.prolang and l.lanname not in ('internal', 'c')
    cross join lateral (
      select regexp_replace(regexp_replace(f.prosrc, '/\*.*?\*/', ' ', 'g'), '--[^\n]*', '', 'g') as body
    ) as t
    where f.pronamespace <> all (array['pg_catalog', 'information_schema', coalesce(to_regnamespace('profiles_internal')::text, 'pg_catalog')]::regnamespace[])
      and f.oid <> all (found_functions)
      and not exists (select from pg_depend as d where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e')
      -- What is set aside, because it does what ours do, reads nothing afterwards.
      and not (f.pronamespace = 'public'::regnamespace and f.proname = any (profiles_internal.our_public_functions()))
      and not (f.prorettype = 'trigger'::regtype and profiles_internal.acts_beside_ours(f.oid))
      and (
        t.body ~* names
        or exists (
          select from pg_proc as g where g.oid = any (functions) and t.body ~* ('(?<![\w"])"?' || regexp_replace(g.proname, '(\W)', '\\\1', 'g') || '"?\s*\(')
        )
        or exists (
          select from pg_depend as d
          where d.classid = 'pg_proc'::regclass and d.objid = f.oid
            and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (relations) or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (functions))
        )
      );

    exit when bound_relations is null and bound_functions is null;
    found_relations := found_relations || bound_relations;
    found_functions := found_functions || bound_functions;
    relations := coalesce(relations, '{}');
    functions := coalesce(functions, '{}');
    asking := asking || relations || functions;
    return query select r::oid, format('view %s', r), r::oid <> all (relations) from unnest(bound_relations::regclass[]) as r
    -- Ours are followed, and not named.
    where coalesce(obj_description(r, 'pg_class'), '') not like 'profiles-schema:%';
    return query select f::oid, format('function %s', f), f::oid <> all (functions) from unnest(bound_functions::regprocedure[]) as f;
  end loop;

  return query
  select y.oid, format('policy %s:%s', y.polrelid::regclass, y.polname), not bool_or(d.refobjid = any (asking))
  from pg_depend as d
  join pg_policy as y on y.oid = d.objid and y.polrelid <> p_table
  where d.classid = 'pg_policy'::regclass
    and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (found_relations) or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (found_functions))
  group by y.oid
  union all
  select w.oid, format('rule %s on %s', w.rulename, w.ev_class::regclass), not bool_or(d.refobjid = any (asking))
  from pg_depend as d
  join pg_rewrite as w on w.oid = d.objid and w.rulename <> '_RETURN' and w.ev_class <> p_table
  where d.classid = 'pg_rewrite'::regclass
    and (d.refclassid = 'pg_class'::regclass and d.refobjid = any (found_relations) or d.refclassid = 'pg_proc'::regclass and d.refobjid = any (found_functions))
  group by w.oid;
end
$table_readers$;

revoke all on function profiles_internal.table_readers(regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Which of these functions and views do not run as things are, and what the server says. SQL bodies are parsed anew, in a
-- savepoint; plpgsql by plpgsql_check, where that is installed; a view is planned. Compared before and after a change:
-- what failed before, or may not be replaced by this role, fails both times.
create or replace function profiles_internal.failing_objects(p_objects oid[])
returns table (object oid, name text, error text)
language plpgsql
set search_path = pg_catalog, pg_temp
set check_function_bodies = on
as $failing_objects$
declare
  checker constant text := (
    select format('%I.plpgsql_check_function_tb', n.nspname)
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where p.proname = 'plpgsql_check_function_tb' limit 1
  );
  tested record;
begin
  for tested in
    select f.oid, 'function ' || f.oid::regprocedure as name, l.lanname as kind, pg_get_functiondef(f.oid) as attempt, f.prorettype = 'trigger'::regtype as fires
    from pg_proc as f join pg_language as l on l.oid = f.prolang
    where f.oid = any (p_objects) and f.prokind <> 'a'
    union all
    select c.oid, 'view ' || c.oid::regclass, 'view', format('select from %s limit 0', c.oid::regclass), false
    from pg_class as c where c.oid = any (p_objects)
    order by 1
  loop
    begin
      -- As the application's statements find names.
      perform set_config('search_path', (select s.reset_val from pg_settings as s where s.name = 'search_path'), true);
      if tested.kind in ('sql', 'view') then
        execute tested.attempt;
      elsif tested.kind = 'plpgsql' and checker is not null then
        for error in
          execute format(
            'select c.message from (select %2$s::oid as relation) as t cross join lateral %1$s(%3$s::regprocedure, t.relation) as c where c.level = ''error''',
            checker, case when tested.fires then format('(select t.tgrelid from pg_catalog.pg_trigger as t where t.tgfoid = %s limit 1)', tested.oid) else '0' end,
            tested.oid)
        loop
          exit;
        end loop;
        if error is not null then
          raise exception '%', error;
        end if;
      end if;
      raise exception 'it runs' using errcode = 'PS001';
    exception
      when sqlstate 'PS001' then
        null;
      when lock_not_available or deadlock_detected or query_canceled then
        raise;
      when others then
        object := tested.oid;
        name := tested.name;
        error := sqlerrm;
        return next;
    end;
    error := null;
  end loop;
end
$failing_objects$;

revoke all on function profiles_internal.failing_objects(oid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The policies of the application on one table that is taken over, and what becomes of each ("fate"):
--   stays    it only takes away (restrictive), or the operator keeps it;
--   goes     ours say the same of the person's own rows, or only service_role or an owner is meant;
--   unused   it allows what no role of the API has the right to do afterwards;
--   open     it shows or gives others' rows away, and whether it stays is a question (id);
--   restrict the answer to one that says less of the person's own rows than ours: it becomes restrictive;
-- Without row level security everything is open: the same question, of a policy that is not there yet (null).
-- The table's own revision makes it, and turns row level security on.
create or replace function profiles_internal.adoption_policies(p_table text, p_found regclass)
returns table (policy oid, name text, command "char", fate text, id text, answer text, is_narrower boolean)
language sql
stable
set search_path = pg_catalog, pg_temp
as $adoption_policies$
  with person (name) as (
    select c.name from unnest(array['id', 'user_id']) as c (name)
    union
    select quote_ident(c.found_name)
    from profiles_internal.adoption_columns(p_table, profiles_internal.table_to_adopt(p_table)) as c
    where c.name = 'user_id' and c.found_name is not null
    union
    -- A key of another name. Looking for it reads the table, so only where a policy is not about id or user_id.
    select quote_ident(case
      when p_found = profiles_internal.table_to_adopt(p_table) and exists (
        select from pg_policy as y
        where y.polrelid = p_found and concat(pg_get_expr(y.polqual, p_found), pg_get_expr(y.polwithcheck, p_found)) ~ 'auth\.uid\(\)'
          and concat(pg_get_expr(y.polqual, p_found), pg_get_expr(y.polwithcheck, p_found)) !~ '\m(id|user_id)\M'
      ) then profiles_internal.adoption_context(p_table, p_found) ->> 'owner'
      else (
        select convert_from(trim(trailing '\x00'::bytea from t.tgargs), getdatabaseencoding()) from pg_trigger as t
        where t.tgrelid = p_found and t.tgname = 'carry_user_id'
      ) end)
  ),
  -- (owner = auth.uid()), as the server prints it without casts.
  own (pattern) as (
    select format('\((auth\.uid\(\) = (%1$s)|(%1$s) = auth\.uid\(\))\)', string_agg(regexp_replace(n.name, '([^\w])', '\\\1', 'g'), '|'))
    from person as n where n.name is not null
  ),
  -- Policies of the form "the own row, and ...": what they show is part of what ours show.
  narrower as (
    select y.oid
    from pg_policy as y
    cross join own
    cross join lateral (
      select bool_and(e.plain ~ format('^%1$s$|^\(%1$s AND | AND %1$s\)$', own.pattern)) as is_own
      from (values (y.polqual), (y.polwithcheck)) as x (expression)
      cross join lateral (
        select regexp_replace(replace(pg_get_expr(x.expression, y.polrelid), '( SELECT auth.uid() AS uid)', 'auth.uid()'),
          '\((auth\.uid\(\)|[^() ]+)\)::(text|uuid|character varying)', '\1', 'g') as plain
      ) as e
      where x.expression is not null
    ) as p
    where y.polrelid = p_found and y.polpermissive and y.polcmd <> 'd' and p.is_own
      and y.polroles <@ (select array_agg(r.oid) || 0::oid from pg_roles as r where r.rolname in ('anon', 'authenticated'))
  ),
  found as (
    select y.oid, y.polname::text as name, y.polcmd, case when y.polname = 'Everybody reads, as before' and to_regclass('profiles_internal.adopted') is not null then 'rls:public.' || p_table else format('policy:public.%s:%s', p_table, y.polname) end as id,
      case
        when not y.polpermissive then 'stays'
        when not exists (
          select from unnest(y.polroles) as m (role) left join pg_roles as r on r.oid = m.role
          where r.oid is null or not (r.rolname = 'service_role' or r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, c.relowner, 'usage'))
        ) then 'goes'
        when not exists (
          select
          from (values (y.polqual, y.polcmd <> 'a'), (y.polwithcheck, y.polcmd = 'a')) as x (expression, is_needed)
          cross join lateral (
            -- (select auth.uid()) = id, auth.uid() = id, id::text = auth.uid()::text and the like.
            select replace(regexp_replace(lower(pg_get_expr(x.expression, y.polrelid)), '::(text|uuid|character varying)|[\s()]|\mas uid\M', '', 'g'), 'select', '') as plain
          ) as e
          where (x.is_needed or x.expression is not null)
            and (e.plain is null or not exists (select from person as n where e.plain in ('auth.uid=' || lower(n.name), lower(n.name) || '=auth.uid')))
        ) then 'goes'
        when y.oid in (select r.oid from narrower as r) then 'open'
        when y.polroles <@ (select array_agg(r.oid) || 0::oid from pg_roles as r where r.rolname in ('anon', 'authenticated')) and (
          y.polcmd = 'd' and p_table <> 'user_api_keys'
          or y.polcmd = 'a' and p_table in ('user_profiles', 'user_profile_audit_logs') and c.relname = p_table
            and not exists (
              select from pg_class as v where v.relkind = 'v' and obj_description(v.oid, 'pg_class') = 'profiles-schema: user_profiles under its old name'
            )
          or y.polcmd = 'w' and p_table = 'user_profile_audit_logs'
        ) then 'unused'
        else 'open'
      end as fate
    from pg_policy as y
    join pg_class as c on c.oid = y.polrelid
    where y.polrelid = p_found
    union all
    select null, 'Everybody reads, as before', 'r', 'rls:public.' || p_table, 'open'
    from pg_class as c
    where c.oid = p_found and c.relkind = 'r' and not c.relrowsecurity and exists (
      select from pg_roles as r
      where r.rolname in ('anon', 'authenticated') and has_any_column_privilege(r.oid, c.oid, 'select') and not r.rolbypassrls
    )
  )
  select f.oid, f.name, f.polcmd, case when f.fate <> 'open' then f.fate when profiles_internal.answer(f.id) = 'keep' then 'stays' when profiles_internal.answer(f.id) = 'restrict' then 'restrict' else 'open' end,
    case f.fate when 'open' then f.id end, case f.fate when 'open' then profiles_internal.answer(f.id) end, f.fate = 'open' and f.oid in (select r.oid from narrower as r)
  from found as f
$adoption_policies$;

revoke all on function profiles_internal.adoption_policies(text, regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What is done around the columns and keys of a table that is taken over: its name, its triggers, who may do what, the
-- policies in the way, and the rows that cannot stay.
create or replace function profiles_internal.adoption_frame(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_frame$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  old_name constant text := (select c.relname from pg_class as c where c.oid = relation);
  aside constant bigint := p_counts ->> 'aside';
  states text;
  guarded text;
  identity text;
  by_index text;
  added text;
  published record;
begin
  if relation::text <> target then
    return next jsonb_build_object('seq', 20, 'action', 'rename', 'object', relation, 'found', relation, 'wanted', target,
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s rename to %I', relation, p_context ->> 'table'),
      'undo', format('alter table %s rename to %I', target, old_name));
    return next jsonb_build_object('seq', 990, 'action', 'create', 'object', relation, 'found', null, 'wanted', 'a view of the old name',
      'lock', 'ACCESS EXCLUSIVE', 'statement', 'select profiles_internal.install_profiles_view()');
  end if;

  -- What only shows when it runs.
  return query
  select jsonb_build_object('seq', 3, 'action', 'note', 'object', string_agg(r.name, ', ' order by r.name), 'found', 'reads ' || relation,
    'wanted', 'not verified',
    'remedy', 'What it says in plpgsql is looked at only when it runs: try it on a copy, or install plpgsql_check, by which the upgrade looks.')
  from profiles_internal.table_readers(relation) as r
  join pg_proc as f on f.oid = r.object
  join pg_language as l on l.oid = f.prolang and l.lanname = 'plpgsql'
  where not exists (select from pg_proc as c where c.proname = 'plpgsql_check_function_tb')
  having count(*) > 0;

  -- Triggers rest while rows are converted. Those that stay come back as they were.
  select string_agg(s.state, '; ' order by t.tgname), string_agg(
    -- The application may have dropped it since.
    format('do $states$ begin if exists (select from pg_catalog.pg_trigger as t where t.tgrelid = %L::regclass and t.tgname = %L) then %s; end if; end $states$',
      target, t.tgname, s.state),
    '; ' order by t.tgname)
  into states, guarded
  from pg_trigger as t
  cross join lateral (
    select format('alter table %s %s trigger %I', target,
      case t.tgenabled when 'O' then 'enable' when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end, t.tgname) as state
  ) as s
  where t.tgrelid = relation and not t.tgisinternal and not profiles_internal.acts_beside_ours(t.tgfoid);
  if states is not null then
    return next jsonb_build_object('seq', 37, 'action', 'set aside', 'object', target, 'found', 'triggers of the application',
      'wanted', 'at rest while rows are converted', 'lock', 'SHARE ROW EXCLUSIVE',
      'statement', format('alter table %s disable trigger user', target), 'undo', guarded);
    return next jsonb_build_object('seq', 981, 'action', 'create', 'object', target, 'found', 'triggers at rest', 'wanted', 'as they were',
      'lock', 'SHARE ROW EXCLUSIVE', 'statement', states, 'undo', format('alter table %s disable trigger user', target));
  end if;
  return query
  select jsonb_build_object('seq', 36, 'action', 'set aside', 'object', format('trigger %s on %s', t.tgname, target),
    'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('drop trigger %I on %s', t.tgname, target), 'undo', profiles_internal.trigger_text(t.oid, target))
  from pg_trigger as t
  where t.tgrelid = relation and not t.tgisinternal and profiles_internal.acts_beside_ours(t.tgfoid);

  -- What is published: the columns that are added too, and each row that changes.
  select coalesce(string_agg(c.value ->> 'name', ', '), 'none') into added
  from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'found_name' is null;
  for published in
    select p.pubname, pg_get_userbyid(p.pubowner) as owner, pg_has_role(p.pubowner, 'usage') and x.oid is not null as may_leave,
      x.prattrs is not null or x.prqual is not null as is_part,
      concat_ws(' ',
        (select '(' || string_agg(quote_ident(a.attname), ', ' order by n.place) || ')'
          from unnest(x.prattrs) with ordinality as n (attnum, place) join pg_attribute as a on a.attrelid = relation and a.attnum = n.attnum),
        'where (' || pg_get_expr(x.prqual, x.prrelid) || ')') as part,
      'publication:' || p.pubname || ':' || target as id
    from pg_publication as p
    left join pg_publication_rel as x on x.prpubid = p.oid and x.prrelid = relation
    where p.puballtables or x.oid is not null
      or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid and n.pnnspid = (select c.relnamespace from pg_class as c where c.oid = relation))
    order by p.pubname
  loop
    identity := case (select c.relreplident from pg_class as c where c.oid = relation) when 'f' then 'full' when 'n' then 'nothing' else 'default' end;
    if published.is_part and not published.may_leave then
      -- While rows are converted it would refuse every change.
      return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', target, 'found', format('publication %s shows a part of it', published.pubname),
        'wanted', 'the whole table', 'remedy', format('As role %I: alter publication %I drop table %s; and add it again, adapted, after the upgrade.', published.owner, published.pubname, relation));
      continue;
    end if;
    return next jsonb_build_object('seq', 2, 'action', 'question', 'id', published.id, 'object', target,
      'found', concat_ws(' ', format('publication %s publishes it', published.pubname), nullif(published.part, '')),
      'answers', jsonb_strip_nulls(jsonb_build_object(
        'keep', case when not published.is_part then format(
          'it goes on publishing, as %s: the columns that the upgrade adds, too (%s), and each row that the upgrade changes; subscribers need these columns', target, added) end,
        'remove', case when published.may_leave then 'the table leaves the publication, until a downgrade or you add it again' end)));
    if profiles_internal.answer(published.id) = 'remove' then
      return next jsonb_build_object('seq', 32, 'action', 'set aside', 'object', target, 'found', 'in publication ' || published.pubname, 'wanted', 'not published',
        'statement', format('alter publication %I drop table %s', published.pubname, target),
        'undo', format('alter publication %I add table %s %s', published.pubname, target, published.part));
    end if;
  end loop;

  -- A publication tells rows apart by their key, and for a moment there is none.
  select 'using index ' || quote_ident(i.relname) into by_index
  from pg_index as x join pg_class as i on i.oid = x.indexrelid
  where x.indrelid = relation and x.indisreplident and (select c.relreplident from pg_class as c where c.oid = relation) = 'i';
  if by_index is not null then
    return next jsonb_build_object('seq', 2, 'action', 'question', 'id', 'replica:' || target, 'object', target, 'found', 'replica identity ' || by_index,
      'answers', jsonb_build_object('default', 'updates and deletes are published with the primary key instead; a downgrade restores the index'));
  end if;
  if by_index is not null or identity <> 'full' then
    return next jsonb_build_object('seq', 33, 'action', 'convert', 'object', target, 'found', 'replica identity ' || coalesce(by_index, identity),
      'wanted', 'full, while rows are converted', 'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s replica identity full', target), 'undo', format('alter table %s replica identity %s', target, coalesce(by_index, identity)));
    return next jsonb_build_object('seq', 980, 'action', 'convert', 'object', target, 'found', 'replica identity full', 'wanted', coalesce(identity, 'default'),
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s replica identity %s', target, coalesce(identity, 'default')), 'undo', format('alter table %s replica identity full', target));
  end if;

  -- Rights, comments and row level security. Until ours come the API roles keep what they may do, to the columns of
  -- today alone: nobody gets to write a role or an id because a column of that name is new.
  return query
  with give as (
    select r.who, a.is_grantable, array_agg(lower(a.privilege_type) order by a.privilege_type) as kinds, null::text as column_name
    from pg_class as c
    cross join lateral aclexplode(c.relacl) as a
    cross join lateral (select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end) as r (who)
    where c.oid = relation and a.grantee <> c.relowner
    group by r.who, a.is_grantable
    union all
    select r.who, b.is_grantable, array_agg(lower(b.privilege_type) order by b.privilege_type), a.attname
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as b
    cross join lateral (select case when b.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(b.grantee)) end) as r (who)
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    group by r.who, b.is_grantable, a.attname
  )
  select jsonb_build_object('seq', 34, 'action', 'set aside', 'object', target, 'found', 'rights and comments', 'wanted', 'ours',
    'statement', nullif(concat_ws('; ', (
      select string_agg(
        format('revoke %1$s on table %2$s from %3$s; grant %1$s (%4$s) on table %2$s to %3$s', k.kind, target, g.who,
          (select string_agg(quote_ident(c.value ->> 'found_name'), ', ') from jsonb_array_elements(p_context -> 'columns') as c where c.value ->> 'found_name' is not null)),
        '; ')
      from give as g
      cross join unnest(array['insert', 'update']) as k (kind)
      where g.column_name is null and k.kind = any (g.kinds) and g.who in ('public', 'anon', 'authenticated')
    ), (
      select string_agg(format('comment on column %s.%I is null', target, x.value ->> 'found_name'), '; ')
      from jsonb_array_elements(p_context -> 'columns') as x
      where x.value ->> 'wanted_type' is not null and col_description(relation, (x.value ->> 'found_position')::integer) is not null
    )), ''),
    'undo', concat_ws('; ',
      format('revoke all on table %s from public, anon, authenticated, service_role', target),
      (
        select string_agg(format('grant %s on table %s to %s%s',
          case when g.column_name is null then array_to_string(g.kinds, ', ')
            else (select string_agg(format('%s (%I)', x.kind, g.column_name), ', ') from unnest(g.kinds) as x (kind)) end,
          target, g.who, case when g.is_grantable then ' with grant option' else '' end), '; ')
        from give as g
      ),
      case when not c.relrowsecurity then format('alter table %s disable row level security', target) end,
      case when c.relforcerowsecurity then format('alter table %s force row level security', target) end,
      format('comment on table %s is %s', target, coalesce(quote_literal(obj_description(relation, 'pg_class')), 'null')),
      (
        select string_agg(format('comment on column %s.%I is %s', target, x.value ->> 'found_name',
          coalesce(quote_literal(col_description(relation, (x.value ->> 'found_position')::integer)), 'null')), '; ')
        from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'found_name' is not null and x.value ->> 'wanted_type' is not null
      )
    ))
  from pg_class as c
  where c.oid = relation;
  if (select c.relforcerowsecurity from pg_class as c where c.oid = relation) then
    return next jsonb_build_object('seq', 35, 'action', 'relax', 'object', target, 'found', 'row security forced on the owner', 'wanted', 'not forced',
      'lock', 'ACCESS EXCLUSIVE', 'statement', format('alter table %s no force row level security', target));
  end if;

  return query
  select jsonb_build_object('seq', 986, 'action', 'create', 'object', format('policy "%s" on %s', p.name, target), 'found', 'no row level security',
    'wanted', 'row level security that lets everybody read', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('create policy %I on %s for select using (true)', p.name, target),
    'undo', format('drop policy if exists %I on %s', p.name, target))
  from profiles_internal.adoption_policies(p_context ->> 'table', relation) as p
  where p.policy is null and p.fate = 'stays';

  -- Policies that a change of type would trip over. What stays is made anew; the others are replaced when ours come.
  return query
  select s.step
  from profiles_internal.adoption_policies(p_context ->> 'table', relation) as p
  join pg_policy as y on y.oid = p.policy
  cross join lateral (
    select jsonb_build_object('seq', 39, 'action', 'set aside', 'object', format('policy "%s" on %s', y.polname, target),
      'found', 'reads a column that changes its type', 'wanted', case when p.fate in ('stays', 'restrict') then 'made anew' else 'ours' end, 'lock', 'ACCESS EXCLUSIVE',
      'statement', format('drop policy %I on %s', y.polname, target), 'undo', profiles_internal.policy_text(y.oid, target)) as step
    union all
    select jsonb_build_object('seq', 985, 'action', 'create', 'object', format('policy "%s" on %s', y.polname, target),
      'found', 'reads a column that has changed its type', 'wanted', 'as it was', 'lock', 'ACCESS EXCLUSIVE',
      'statement', profiles_internal.policy_text(y.oid, target), 'undo', format('drop policy if exists %I on %s', y.polname, target))
    where p.fate in ('stays', 'restrict')
  ) as s
  where exists (
    select from pg_depend as d
    join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    join jsonb_array_elements(p_context -> 'columns') as c on c.value ->> 'found_name' = a.attname
    where d.classid = 'pg_policy'::regclass and d.objid = y.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = relation
      and c.value ->> 'source' is not null
  );

  -- Rows that cannot stay.
  return query
  select jsonb_build_object('seq', 44, 'action', 'quarantine', 'object', target, 'found', g.value ->> 'reason',
    'wanted', 'profiles_internal.quarantine', 'rows', g.value -> 'hits')
  from jsonb_array_elements(p_counts -> 'reasons') as g;
  if aside > 0 then
    return query
    select jsonb_build_object('seq', 45, 'action', 'quarantine', 'object', target, 'found', 'rows that cannot stay',
      'wanted', 'profiles_internal.quarantine', 'lock', 'ACCESS EXCLUSIVE', 'rows', aside, 'seconds', aside * 0.000025,
      'statement', format(
        'with gone as (delete from %1$s as t using (%2$s) as m where t.ctid = m.row_id and m.reason is not null returning to_jsonb(t.*)%4$s as row_data, m.reason) '
        'insert into profiles_internal.quarantine (table_name, row_data, reason) select %3$L, g.row_data, g.reason from gone as g',
        target, replace(p_counts ->> 'misplaced', '{table}', target), target,
        -- A JSON null and no value at all would look the same.
        ' - array_remove(array[' || string_agg(format('case when t.%1$I is null then %2$L end', c.value ->> 'found_name', c.value ->> 'found_name'), ', ')
          filter (where c.value ->> 'found_type' in ('json', 'jsonb')) || ']::text[], null)'),
      'undo', format('select profiles_internal.bring_back_rows(%L, %L)', target, array_agg(c.value ->> 'found_name')))
    from jsonb_array_elements(p_context -> 'columns') as c
    where c.value ->> 'found_name' is not null and not (c.value ->> 'found_generated')::boolean;
  end if;
end
$adoption_frame$;

revoke all on function profiles_internal.adoption_frame(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What becomes of the constraints and indexes of a table that is taken over, and of the foreign keys that point to it.
-- One that says what ours says only gets our name. One over columns of ours that says something else is set aside: it
-- could refuse what we write. The rest is the application's own, and stays: so does a key on the user, and what a foreign
-- key of another table points to.
-- Definitions are compared as they read after the columns were renamed.
create or replace function profiles_internal.adoption_keys(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_keys$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  aside constant bigint := p_counts ->> 'aside';
  taken text[] := '{}';
  owner constant text := coalesce(p_context ->> 'owner', 'user_id');
  key_stays boolean := false;
  gone text[] := '{}';
  theirs record;
  our_name text;
  left_behind bigint;
  legacy boolean := false;
begin
  for theirs in
    select
      k.conname::text as name, k.contype as kind, pg_get_constraintdef(k.oid) as definition, c.columns,
      case
        when k.contype in ('p', 'u') then regexp_replace(pg_get_constraintdef(k.oid), '\([^)]*\)', '(' || c.listed || ')')
        when k.contype = 'f' then regexp_replace(pg_get_constraintdef(k.oid), '^FOREIGN KEY \([^)]*\)', 'FOREIGN KEY (' || c.listed || ')')
        else pg_get_constraintdef(k.oid)
      end as afterwards,
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is not null
      ) as touches_ours,
      -- A CHECK on columns that only the application writes refuses nothing of ours.
      k.contype = 'c' and p_context ->> 'table' = 'user_profiles' and not exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is not null and not (x.value ->> 'is_theirs')::boolean
      ) as is_theirs,
      not exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'wanted_type' is null
      ) as ours_alone,
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as x
        where x.value ->> 'name' = any (c.columns) and x.value ->> 'source' is not null
      ) as retyped,
      k.contype in ('c', 'f') and not k.convalidated as unproved,
      -- A sign-up would fail for it, or the deletion of a user.
      k.contype = 'f' and (k.confrelid is distinct from to_regclass('auth.users') or k.confdeltype <> 'c') as is_strange
    from pg_constraint as k
    cross join lateral (
      select
        coalesce(array_agg(x.value ->> 'name' order by n.place), '{}') as columns,
        string_agg(quote_ident(x.value ->> 'name'), ', ' order by n.place) as listed
      from unnest(k.conkey) with ordinality as n (attnum, place)
      join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = n.attnum
      join jsonb_array_elements(p_context -> 'columns') as x on x.value ->> 'found_name' = a.attname
    ) as c
    where k.conrelid = relation and k.contype in ('p', 'u', 'c', 'f', 'x')
    order by k.conname collate "C"
  loop
    select w.name into our_name
    from profiles_internal.wanted_shape() as w
    where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'check', 'foreign key')
      and w.definition = theirs.afterwards and w.name <> all (taken)
      and (w.name = theirs.name or not exists (select from pg_constraint as k where k.conrelid = relation and k.conname = w.name));
    if found and not (theirs.kind = 'f' and theirs.retyped) then
      taken := taken || our_name;
      if our_name <> theirs.name then
        return next jsonb_build_object('seq', 51, 'action', 'rename', 'object', format('%s.%s', target, theirs.name),
          'found', theirs.definition, 'wanted', our_name, 'lock', 'ACCESS EXCLUSIVE',
          'statement', format('alter table %s rename constraint %I to %I', target, theirs.name, our_name),
          'undo', format('alter table %s rename constraint %I to %I', target, our_name, theirs.name));
      end if;
    elsif theirs.kind = 'p' and theirs.columns <@ array['id', 'user_id', owner] and theirs.name <> 'pk_' || (p_context ->> 'table') then
      key_stays := true;
    elsif theirs.kind = 'p'
      or theirs.kind = 'u' and theirs.ours_alone and theirs.columns <> '{id}' and theirs.columns <> '{user_id}'
      or theirs.kind in ('c', 'x') and theirs.touches_ours and not theirs.is_theirs
      or theirs.kind = 'f' and (theirs.columns = '{user_id}' or theirs.retyped or theirs.columns = array[owner] and theirs.is_strange)
      -- A row that comes out of quarantine may be one that it was never asked about.
      or theirs.unproved and aside > 0
    then
      gone := gone || theirs.name;
      return query
      select jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, theirs.name), 'found', 'used by view ' || w.ev_class::regclass,
        'wanted', 'ours', 'remedy', format('%s groups by this key and reads other columns beside it. Drop it, and create it again after the upgrade.', w.ev_class::regclass))
      from pg_depend as d
      join pg_constraint as k on k.oid = d.refobjid and k.conrelid = relation and k.conname = theirs.name
      join pg_rewrite as w on w.oid = d.objid
      where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_constraint'::regclass;
      return next jsonb_build_object('seq', case theirs.kind when 'f' then 40 else 42 end,
        'action', case when theirs.kind in ('p', 'f') then 'replace' else 'set aside' end,
        'object', format('%s.%s', target, theirs.name), 'found', theirs.definition, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE',
        'statement', format('alter table %s drop constraint %I', target, theirs.name),
        'undo', format('alter table %s add constraint %I %s', target, theirs.name, theirs.definition),
        'remedy', case when theirs.is_strange then 'From now on the deletion of a user deletes the profile.' end);
      if theirs.unproved and not theirs.touches_ours and not theirs.is_strange then
        return next jsonb_build_object('seq', 960, 'action', 'create', 'object', format('%s.%s', target, theirs.name), 'found', 'set aside above',
          'wanted', theirs.definition, 'lock', 'ACCESS EXCLUSIVE',
          'statement', format('alter table %s add constraint %I %s', target, theirs.name, theirs.definition),
          'undo', format('alter table %s drop constraint if exists %I', target, theirs.name));
      end if;
    elsif exists (
      select from profiles_internal.wanted_shape() as w
      where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'check', 'foreign key') and w.name = theirs.name
    ) then
      return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', target, theirs.name), 'found', theirs.definition,
        'wanted', 'that name, for ours', 'remedy', 'Rename it: that name is needed.');
    end if;
  end loop;

  for theirs in
    select
      i.relname::text as name, x.indisunique as is_unique,
      replace(pg_get_indexdef(i.oid), ' ON ' || relation || ' ', ' ON ' || target || ' ') as definition,
      not exists (
        select from jsonb_array_elements(p_context -> 'columns') as c
        join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        where c.value ->> 'wanted_type' is null
          and (a.attnum = any (x.indkey) or exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = i.oid and d.refclassid = 'pg_class'::regclass
              and d.refobjid = relation and d.refobjsubid = a.attnum
          ))
      ) as ours_alone,
      -- It would not survive another type under it: an expression, a condition, or a way to compare that goes with the type.
      exists (
        select from jsonb_array_elements(p_context -> 'columns') as c
        join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'found_name'
        where c.value ->> 'source' is not null and (
          exists (
            select from unnest(x.indkey) with ordinality as n (attnum, place)
            join unnest(x.indclass) with ordinality as o (opclass, place) on o.place = n.place
            join pg_opclass as oc on oc.oid = o.opclass
            where n.attnum = a.attnum and not oc.opcdefault
          )
          or (x.indexprs is not null or x.indpred is not null) and exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = i.oid and d.refclassid = 'pg_class'::regclass
              and d.refobjid = relation and d.refobjsubid = a.attnum
          )
        )
      ) as trips,
      x.indexprs is null and x.indnkeyatts = 1 and exists (
        select from pg_attribute as a
        where a.attrelid = relation and a.attnum = x.indkey[0] and a.attname in ('id', 'user_id')
      ) as on_a_key
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    where x.indrelid = relation and not exists (select from pg_constraint as k where k.conindid = i.oid and k.conrelid = relation)
    order by i.relname collate "C"
  loop
    select w.name into our_name
    from profiles_internal.wanted_shape() as w
    where w.table_name = p_context ->> 'table' and w.kind = 'index' and w.name <> all (taken)
      and regexp_replace(w.definition, ' INDEX \S+ ON ', ' INDEX ON ') = regexp_replace(theirs.definition, ' INDEX \S+ ON ', ' INDEX ON ')
      and (w.name = theirs.name or not exists (
        select from pg_index as x join pg_class as i on i.oid = x.indexrelid where x.indrelid = relation and i.relname = w.name
      ));
    if found then
      taken := taken || our_name;
      if our_name <> theirs.name then
        return next jsonb_build_object('seq', 52, 'action', 'rename', 'object', 'public.' || theirs.name, 'found', theirs.definition,
          'wanted', our_name, 'lock', 'SHARE UPDATE EXCLUSIVE',
          'statement', format('alter index public.%I rename to %I', theirs.name, our_name),
          'undo', format('alter index public.%I rename to %I', our_name, theirs.name));
      end if;
    elsif theirs.is_unique and theirs.ours_alone and not theirs.on_a_key or theirs.trips or exists (
      select from profiles_internal.wanted_shape() as w
      where w.table_name = p_context ->> 'table' and w.kind in ('index', 'unique') and w.name = theirs.name
    ) then
      gone := gone || theirs.name;
      return next jsonb_build_object('seq', 43, 'action', 'set aside', 'object', 'public.' || theirs.name, 'found', theirs.definition,
        'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE',
        'statement', format('drop index public.%I', theirs.name), 'undo', theirs.definition);
    end if;
  end loop;

  -- Ours, where they are missing; all CHECKs in one statement, which reads the table once.
  return query
  select jsonb_build_object('seq', case w.kind when 'primary key' then 73 when 'foreign key' then 960 else 950 end, 'action', 'create',
    'object', format('%s.%s', target, w.name), 'found', null, 'wanted', d.definition,
    'lock', case w.kind when 'foreign key' then 'SHARE ROW EXCLUSIVE on auth.users, too' else 'ACCESS EXCLUSIVE' end,
    'seconds', (p_counts ->> 'total')::bigint * 0.0000015,
    'statement', case when w.kind = 'primary key' then format('alter table %s alter column id set not null; ', target) else '' end
      || format('alter table %s add constraint %I %s', target, w.name, d.definition),
    'undo', format('alter table %s drop constraint %I', target, w.name)
      || case when w.kind = 'primary key' and not (p_context -> 'by_name' -> 'id' ->> 'found_not_null')::boolean
        then format('; alter table %s alter column id drop not null', target) else '' end)
  from profiles_internal.wanted_shape() as w
  -- A table has one primary key.
  cross join lateral (
    select case when w.kind = 'primary key' and key_stays then replace(w.definition, 'PRIMARY KEY', 'UNIQUE') else w.definition end as definition
  ) as d
  where w.table_name = p_context ->> 'table' and w.kind in ('primary key', 'unique', 'foreign key') and w.name <> all (taken);
  return query
  select jsonb_build_object('seq', 949, 'action', 'create', 'object', target, 'found', null,
    'wanted', format('%s CHECK constraints', count(*)), 'lock', 'ACCESS EXCLUSIVE', 'seconds', (p_counts ->> 'total')::bigint * 0.000005,
    'statement', format('alter table %s %s', target, string_agg(format('add constraint %I %s', w.name, w.definition), ', ')),
    'undo', format('alter table %s %s', target, string_agg(format('drop constraint %I', w.name), ', ')))
  from profiles_internal.wanted_shape() as w
  where w.table_name = p_context ->> 'table' and w.kind = 'check' and w.name <> all (taken)
  having count(*) > 0;
  return query
  select jsonb_build_object('seq', 951, 'action', 'create', 'object', 'public.' || w.name, 'found', null, 'wanted', w.definition,
    'lock', 'ACCESS EXCLUSIVE', 'seconds', (p_counts ->> 'total')::bigint * 0.00000125, 'statement', w.definition,
    'undo', format('drop index if exists public.%I', w.name))
  from profiles_internal.wanted_shape() as w
  where w.table_name = p_context ->> 'table' and w.kind = 'index' and w.name <> all (taken);

  -- What somebody has written on a constraint or an index goes with it, and comes back with it.
  return query
  with comment as (
    select k.conrelid <> relation as is_others,
      format('do $comment$ begin if exists (select from pg_catalog.pg_constraint as k where k.conrelid = %1$L::regclass and k.conname = %2$L) '
        'then comment on constraint %2$I on %1$s is %3$L; end if; end $comment$',
        case when k.conrelid = relation then target else k.conrelid::regclass::text end, k.conname, d.description) as statement
    from pg_constraint as k
    join pg_description as d on d.classoid = 'pg_constraint'::regclass and d.objoid = k.oid
    where k.conrelid = relation or k.contype = 'f' and k.confrelid = relation
    union all
    select false, format('do $comment$ begin if to_regclass(%1$L) is not null then comment on index %1$s is %2$L; end if; end $comment$',
      format('%I.%I', n.nspname, i.relname), d.description)
    from pg_index as x
    join pg_class as i on i.oid = x.indexrelid
    join pg_namespace as n on n.oid = i.relnamespace
    join pg_description as d on d.classoid = 'pg_class'::regclass and d.objoid = i.oid and d.objsubid = 0
    where x.indrelid = relation
  )
  select s.step
  from (
    select string_agg(c.statement, '; ' order by c.statement) as all_of_them,
      string_agg(c.statement, '; ' order by c.statement) filter (where c.is_others) as of_others
    from comment as c
  ) as a
  cross join lateral (values
    (a.all_of_them, jsonb_build_object('seq', 32, 'action', 'note', 'object', target, 'found', 'comments on constraints and indexes', 'wanted', 'kept',
      'undo', a.all_of_them)),
    (a.of_others, jsonb_build_object('seq', 985, 'action', 'note', 'object', target, 'found', 'comments on foreign keys of other tables',
      'wanted', 'as they were', 'statement', a.of_others))
  ) as s (statement, step)
  where s.statement is not null;

  -- Foreign keys of other tables, where the key they point to is made anew, or rows behind them go.
  for theirs in
    select
      k.conname::text as name, c.refers_to, c.matches, pg_has_role((select o.relowner from pg_class as o where o.oid = k.conrelid), 'usage') as may_change, k.conrelid::regclass::text as found_name,
      case when k.conrelid = relation then target else k.conrelid::regclass::text end as table_name,
      pg_get_constraintdef(k.oid) as definition,
      case when k.conrelid = relation
        then regexp_replace(pg_get_constraintdef(k.oid), '^FOREIGN KEY \([^)]*\)', 'FOREIGN KEY (' || c.refers_from || ')')
        else pg_get_constraintdef(k.oid) end as afterwards,
      exists (select from pg_class as i where i.oid = k.conindid and i.relname = any (gone)) as key_goes
    from pg_constraint as k
    cross join lateral (
      select
        string_agg(quote_ident(x.value ->> 'name'), ', ' order by n.place) as refers_to,
        string_agg(quote_ident(coalesce(y.value ->> 'name', b.attname)), ', ' order by n.place) as refers_from,
        string_agg(format('r.%I = x.%I', a.attname, b.attname), ' and ' order by n.place) as matches
      from unnest(k.confkey, k.conkey) with ordinality as n (attnum, other_attnum, place)
      join pg_attribute as a on a.attrelid = k.confrelid and a.attnum = n.attnum
      join pg_attribute as b on b.attrelid = k.conrelid and b.attnum = n.other_attnum
      join jsonb_array_elements(p_context -> 'columns') as x on x.value ->> 'found_name' = a.attname
      left join jsonb_array_elements(p_context -> 'columns') as y on k.conrelid = relation and y.value ->> 'found_name' = b.attname
    ) as c
    where k.contype = 'f' and k.confrelid = relation and k.conparentid = 0
    order by k.conrelid::regclass::text collate "C", k.conname collate "C"
  loop
    left_behind := 0;
    if aside > 0 and theirs.may_change then
      execute format(
        'select count(*) from %s as x where exists (select from %s as r join (%s) as m on m.row_id = r.ctid where m.reason is not null and %s)',
        theirs.found_name, relation, replace(p_counts ->> 'misplaced', '{table}', relation::text), theirs.matches
      ) into left_behind;
    end if;
    continue when not theirs.key_goes and left_behind = 0 and (theirs.may_change or aside = 0);
    if not theirs.may_change then
      return next jsonb_build_object('seq', 1, 'action', 'stop', 'object', format('%s.%s', theirs.table_name, theirs.name), 'found', 'a table of somebody else refers to it',
        'wanted', 'one that may be changed', 'remedy', 'Its owner drops this foreign key, and makes it again after the upgrade.');
      continue;
    end if;
    legacy := legacy or theirs.refers_to = 'legacy_id';
    return next jsonb_build_object('seq', 38, 'action', 'replace', 'object', format('%s.%s', theirs.table_name, theirs.name),
      'found', theirs.definition, 'wanted', 'made anew below', 'lock', 'ACCESS EXCLUSIVE on both tables',
      'statement', format('alter table %s drop constraint %I', theirs.table_name, theirs.name),
      'undo', format('alter table if exists %s add constraint %I %s', theirs.table_name, theirs.name,
        regexp_replace(theirs.definition, 'REFERENCES [^(]+\(', 'REFERENCES ' || target || '(')));
    theirs.afterwards := regexp_replace(theirs.afterwards, 'REFERENCES [^(]+\([^)]*\)', format('REFERENCES %s(%s)', target, theirs.refers_to));
    if left_behind > 0 and theirs.afterwards !~ 'NOT VALID$' then
      theirs.afterwards := theirs.afterwards || ' NOT VALID';
    end if;
    return next jsonb_build_object('seq', 970, 'action', 'replace', 'object', format('%s.%s', theirs.table_name, theirs.name),
      'found', case when left_behind > 0 then left_behind || ' rows refer to quarantined ones' end, 'wanted', theirs.afterwards,
      'lock', 'SHARE ROW EXCLUSIVE on both tables', 'rows', nullif(left_behind, 0),
      'statement', format('alter table %s add constraint %I %s', theirs.table_name, theirs.name, theirs.afterwards),
      'undo', format('alter table if exists %s drop constraint if exists %I', theirs.table_name, theirs.name));
  end loop;
  if legacy then
    return next jsonb_build_object('seq', 952, 'action', 'create', 'object', target || '.legacy_id', 'found', 'referred to', 'wanted', 'unique',
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format('alter table %s add constraint %I unique (legacy_id)', target, (p_context ->> 'table') || '_legacy_id_key'),
      'undo', format('alter table %s drop constraint %I', target, (p_context ->> 'table') || '_legacy_id_key'));
  end if;
end
$adoption_keys$;

revoke all on function profiles_internal.adoption_keys(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Before a profile is written in a table where another column of the application says whose it is (the trigger's argument):
-- that column and user_id say the same. Where a statement gives or changes only one, the other one follows.
-- Its triggers are on user_profiles only where adoption found such a column.
-- Errors: 23514 a statement gives two users.
create or replace function profiles_internal.carry_user_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $carry_user_id$
declare
  owner constant text := tg_argv[0];
  given constant uuid := to_jsonb(new) ->> owner;
begin
  if tg_op = 'INSERT' and new.user_id is null or tg_op = 'UPDATE' and new.user_id = old.user_id then
    new.user_id := given;
  elsif tg_op = 'INSERT' and given is null or tg_op = 'UPDATE' and given = old.user_id then
    new := jsonb_populate_record(new, jsonb_build_object(owner, new.user_id));
  elsif given is distinct from new.user_id then
    raise exception 'a profile of two users: % is not the user_id', owner
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = owner;
  end if;
  return new;
end
$carry_user_id$;

revoke all on function profiles_internal.carry_user_id() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The triggers on user_profiles that keep user_id and the application's own column for the user the same (carry_user_id).
-- Adoption calls it, and repair.
create or replace function profiles_internal.install_carry_user_id(p_owner text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_carry_user_id$
begin
  execute format(
    'create or replace trigger carry_user_id before insert on public.user_profiles '
    'for each row when (new.user_id::text is distinct from new.%1$I::text) execute function profiles_internal.carry_user_id(%1$L); '
    'create or replace trigger carry_user_id_change before update on public.user_profiles '
    'for each row when (new.user_id is distinct from old.user_id or new.%1$I is distinct from old.%1$I) '
    'execute function profiles_internal.carry_user_id(%1$L); '
    'alter table public.user_profiles enable trigger carry_user_id, enable trigger carry_user_id_change',
    p_owner
  );
end
$install_carry_user_id$;

revoke all on function profiles_internal.install_carry_user_id(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Where another column than user_id says whose row of user_profiles it is: user_id is filled from it, and from then on a trigger
-- gives each of the two what the other one says (carry_user_id).
create or replace function profiles_internal.adoption_owner_steps(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_owner_steps$
declare
  target constant text := p_context ->> 'target';
  owner constant text := p_context ->> 'owner';
  found constant jsonb := p_context -> 'by_name' -> 'user_id';
begin
  if p_context ->> 'table' <> 'user_profiles' or owner is null or owner = 'user_id' then
    return;
  end if;
  -- A user_id that is there and says nothing.
  if found ->> 'found_name' is not null then
    return next jsonb_build_object('seq', 74, 'action', 'convert', 'object', target || '.user_id', 'found', 'no user', 'wanted', 'the user of ' || owner,
      'lock', 'ACCESS EXCLUSIVE',
      'statement', format(
        'with done as (update %1$s as t set user_id = %2$s where t.user_id is null returning t.id, t.user_id) '
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %3$L, ''value'', %4$L, jsonb_build_object(''key'', d.id, ''old'', null, ''new'', d.user_id) from done as d',
        target, p_context ->> 'user', p_context ->> 'by', target || '.user_id'),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''value'')', p_context ->> 'by', target));
  end if;
  return next jsonb_build_object('seq', 982, 'action', 'create', 'object', target, 'found', null, 'wanted', format('triggers that fill user_id from %s', owner),
    'lock', 'SHARE ROW EXCLUSIVE',
    'statement', format('select profiles_internal.install_carry_user_id(%L)', owner),
    'undo', format('drop trigger if exists carry_user_id on %1$s; drop trigger if exists carry_user_id_change on %1$s', target),
    'remedy', format('A statement that writes %s and knows no user_id works as before; a value that is no user of auth.users fails (23503), and so does a username that breaks our rule (23514).', owner));
end
$adoption_owner_steps$;

revoke all on function profiles_internal.adoption_owner_steps(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What becomes of the columns of a table that is taken over, and of the values in them.
-- In this order: names, new columns, their values, types, values that break a rule, usernames, defaults and NOT NULL.
-- Undone in the opposite one. A value that does not come back by itself is kept in profiles_internal.adopted.
create or replace function profiles_internal.adoption_fields(p_context jsonb, p_counts jsonb)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_fields$
declare
  target constant text := p_context ->> 'target';
  revision constant text := p_context ->> 'by';
  columns constant jsonb := p_context -> 'columns';
  by_name constant jsonb := p_context -> 'by_name';
  makes_users constant boolean := p_context ->> 'makes_users';
  staying constant bigint := (p_counts ->> 'total')::bigint - (p_counts ->> 'aside')::bigint;
  bytes constant bigint := p_counts ->> 'bytes';
  user_now constant text := coalesce(p_context ->> 'user', 't.user_id');
  fresh jsonb;
  fills text;
  fits constant jsonb := p_counts -> 'fits';
  -- What the auth server knows of the user. Where policies of the application show rows to others, it waits for ours.
  of_users constant text[] := array(
    select c.key from jsonb_each(by_name) as c
    where c.key in ('email', 'phone', 'email_verified', 'is_anonymous', 'last_login') and c.value ->> 'found_name' is null
      and p_context ->> 'table' = 'user_profiles' and not makes_users
  );
  is_open constant boolean := exists (
    select from pg_class as t cross join lateral aclexplode(t.relacl) as a
    where t.oid = (p_context ->> 'found')::regclass and a.privilege_type = 'SELECT'
      and (a.grantee = 0 or pg_get_userbyid(a.grantee) in ('anon', 'authenticated'))
      and exists (select from pg_policy as y where y.polrelid = t.oid)
  );
begin
  return query
  select jsonb_build_object('seq', 50, 'action', 'rename', 'object', format('%s.%s', target, c.value ->> 'found_name'),
    'found', c.value ->> 'found_type', 'wanted', c.value ->> 'name', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s rename column %I to %I', target, c.value ->> 'found_name', c.value ->> 'name'),
    'undo', format('alter table %s rename column %I to %I', target, c.value ->> 'name', c.value ->> 'found_name'))
  from jsonb_array_elements(columns) as c
  where c.value ->> 'found_name' <> c.value ->> 'name';

  -- New columns: those that get a value of their own in every row, and those that get the default.
  select jsonb_agg(to_jsonb(n) order by n.name) into fresh
  from (
    select c.key as name, c.value ->> 'wanted_type' as type, c.value ->> 'wanted_default' as default_value,
      (c.value ->> 'wanted_not_null')::boolean as not_null,
      case
        when c.key = 'user_id' then coalesce(p_context ->> 'user', 'gen_random_uuid()')
        when c.key = 'id' and p_context ->> 'table' <> 'user_profiles' then 'gen_random_uuid()'
        when c.key = 'id' and by_name ? 'legacy_id' then 't.legacy_id::text'
        when c.key = 'id' then user_now || '::text'
        when p_context ->> 'table' <> 'user_profiles' then null
        -- Nobody has agreed to be shown.
        when c.key = 'profile_visibility' then '''private'''
        when c.key in ('first_seen_at', 'last_interaction_at') and t.moment is not null
          then format('extract(epoch from case when isfinite(%1$s) then %1$s else now() end)::bigint', t.moment)
        when c.key = any (of_users) and not is_open then 'v.' || c.key
      end as fill
    from jsonb_each(by_name) as c
    left join lateral (
      select replace(coalesce(x.value ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.key)) as moment
      from jsonb_each(by_name) as x
      where x.key = case c.key when 'first_seen_at' then 'created_at' when 'last_interaction_at' then 'updated_at' end
        and x.value ->> 'found_name' is not null
    ) as t on true
    where c.value ->> 'found_name' is null
  ) as n;

  return query
  select jsonb_build_object('seq', 60, 'action', 'add', 'object', target, 'found', null,
    'wanted', string_agg(n.value ->> 'name', ', '), 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s %s', target, string_agg(
      format('add column %I %s', n.value ->> 'name', n.value ->> 'type')
        || case when n.value ->> 'fill' is null and n.value ->> 'default_value' is not null then ' default ' || (n.value ->> 'default_value') else '' end
        || case when n.value ->> 'fill' is null and (n.value ->> 'not_null')::boolean and n.value ->> 'default_value' is not null then ' not null' else '' end,
      ', ')),
    'undo', format('alter table %s %s', target, string_agg(format('drop column %I', n.value ->> 'name'), ', ')))
  from jsonb_array_elements(fresh) as n
  having count(*) > 0;

  -- Users for the rows, where no auth server makes them.
  if (p_context ->> 'own')::boolean and p_context ->> 'table' <> 'user_profile_audit_logs' and staying > 0 then
    return next jsonb_build_object('seq', case when makes_users then 71 else 65 end, 'action', 'create', 'object', 'auth.users',
      'found', format('rows of %s', target), 'wanted', 'a user for each', 'rows', staying, 'seconds', staying * 0.000005,
      'statement', format(
        'insert into auth.users (id%1$s) select distinct on (%2$s) %2$s%3$s from %4$s as t where not exists (select from auth.users as u where u.id = %2$s)',
        (select string_agg(', ' || x.key, '' order by x.key) from jsonb_each(by_name) as x
          where p_context ->> 'table' = 'user_profiles' and x.key in ('email', 'phone', 'created_at') and x.value ->> 'found_name' is not null),
        user_now,
        (select string_agg(', ' || replace(coalesce(x.value ->> 'source', '{column}'), '{column}', 't.' || quote_ident(x.key)), '' order by x.key)
          from jsonb_each(by_name) as x
          where p_context ->> 'table' = 'user_profiles' and x.key in ('email', 'phone', 'created_at') and x.value ->> 'found_name' is not null),
        target),
      -- Made for rows that will have lost their user's id again.
      'undo', case when makes_users then format('delete from auth.users as u using %s as t where u.id = t.user_id', target) end);
  end if;

  select string_agg(format('%I = %s', n.value ->> 'name', n.value ->> 'fill'), ', ') into fills
  from jsonb_array_elements(fresh) as n where n.value ->> 'fill' is not null;
  if fills is not null then
    return next jsonb_build_object('seq', 70, 'action', 'convert', 'object', target, 'found', 'new columns, empty',
      'wanted', (select string_agg(n.value ->> 'name', ', ') from jsonb_array_elements(fresh) as n where n.value ->> 'fill' is not null),
      'lock', 'ACCESS EXCLUSIVE', 'rows', staying, 'seconds', staying * 0.000015 + bytes * 0.000000015,
      'statement', format('update %s as t set %s', target, fills) || case when fills like '%= v.%'
        then format(' from auth.users as u cross join lateral profiles_internal.profile_values(array[to_jsonb(u.*)]) as v where u.id = %s', user_now)
        else '' end);
  end if;

  return query select profiles_internal.adoption_owner_steps(p_context);

  if is_open and of_users <> '{}' then
    return next jsonb_build_object('seq', 71, 'action', 'note', 'object', target, 'found', 'new columns, empty',
      'wanted', array_to_string(of_users, ', '), 'remedy', 'Filled together with our policies: until then others may read the rows.',
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''fill'', %L, %L)',
        revision, target, to_jsonb(of_users)));
  end if;

  return query
  select jsonb_build_object('seq', 72, 'action', 'convert', 'object', target,
    'found', string_agg(format('%s %s', c.value ->> 'name', c.value ->> 'found_type'), ', '),
    'wanted', string_agg(c.value ->> 'wanted_type', ', '), 'lock', 'ACCESS EXCLUSIVE', 'rows', staying, 'seconds', staying * 0.000015 + bytes * 0.000000015,
    'statement',
      string_agg(format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %1$L, ''found value'', %2$L, jsonb_build_object(''key'', t.id::text, ''old'', t.%3$I::text, ''new'', (%4$s)::text) from %5$s as t '
        'where (%4$s)::text is distinct from t.%3$I::text; ',
        revision, target || '.' || (c.value ->> 'name'), c.value ->> 'name',
        replace(c.value ->> 'back', '{column}', '(' || replace(c.value ->> 'source', '{column}', 't.' || quote_ident(c.value ->> 'name')) || ')'), target
      ), '')
      || format('alter table %s %s', target, string_agg(
        format('alter column %1$I drop default, alter column %1$I type %2$s using %3$s', c.value ->> 'name', c.value ->> 'wanted_type',
          replace(c.value ->> 'source', '{column}', quote_ident(c.value ->> 'name'))), ', ')),
    'undo',
      format('alter table %s %s', target, string_agg(
        format('alter column %1$I drop default, alter column %1$I type %2$s using %3$s', c.value ->> 'name', c.value ->> 'found_type',
          replace(c.value ->> 'back', '{column}', quote_ident(c.value ->> 'name'))), ', '))
      || coalesce('; ' || string_agg(format('alter table %s alter column %I set default %s', target, c.value ->> 'name', c.value ->> 'found_default'), '; ')
        filter (where c.value ->> 'found_default' is not null), '')
      || format('; select profiles_internal.restore_values(%L, %L, ''found value'')', revision, target))
  from jsonb_array_elements(columns) as c
  where c.value ->> 'source' is not null
  having count(*) > 0;

  -- NOT NULL that ours are not, before values that break a rule become null; and that which a sign-up cannot keep.
  return query
  select jsonb_build_object('seq', 75, 'action', 'relax', 'object', format('%s.%s', target, c.value ->> 'name'), 'found', 'not null',
    'wanted', 'nullable', 'lock', 'ACCESS EXCLUSIVE',
    'statement', format('alter table %s alter column %I drop not null', target, c.value ->> 'name'),
    'undo', format('select profiles_internal.require_values(%L, %L)', target, c.value ->> 'name'))
  from jsonb_array_elements(columns) as c
  where (c.value ->> 'found_not_null')::boolean and (
    not (c.value ->> 'wanted_not_null')::boolean or c.value ->> 'found_name' = any (profiles_internal.required_columns(p_context))
  );

  -- Values that break a rule: all of a row at once. One line per rule says what happens; the last one does it.
  if fits <> '[]' then
    return query
    select jsonb_build_object('seq', 80, 'action', 'fit', 'object', format('%s.%s', target, f.value ->> 'column_name'),
      'found', split_part(f.value ->> 'rule', ': ', 1), 'wanted', split_part(f.value ->> 'rule', ': ', 2), 'rows', f.value -> 'hits')
    from jsonb_array_elements(fits) as f;
    return query
    with rule as (
      select f.value ->> 'column_name' as name, replace(f.value ->> 'wrong', '{table}', target) as wrong, f.value ->> 'fitted' as fitted,
        f.ordinality as place, (f.value ->> 'hits')::bigint as hits
      from jsonb_array_elements(fits) with ordinality as f
    ),
    by_column as (
      select r.name, string_agg(format('when %s then %s', r.wrong, r.fitted), ' ' order by r.place) as cases,
        string_agg('(' || r.wrong || ')', ' or ' order by r.place) as wrong
      from rule as r
      group by r.name
    )
    select jsonb_build_object('seq', 81, 'action', 'fit', 'object', target, 'found', 'values that break a rule', 'wanted', 'as said above',
      'lock', 'ACCESS EXCLUSIVE', 'rows', (select max(r.hits) from rule as r), 'seconds', staying * 0.000005 + (select sum(r.hits) from rule as r) * 0.000015,
      'statement', format(
        -- Of a row, only what is wrong in it: the rest may be large.
        'with was as materialized (select id as row_key, (select jsonb_object_agg(x.name, x.value) from (values %1$s) as x (name, value, wrong) where x.wrong) as old from %2$s where %3$s), '
        'now as (update %2$s as t set %4$s from was where t.id = was.row_key returning t.id::text as row_key, was.old, '
        '(select jsonb_object_agg(x.name, x.value) from (values %5$s) as x (name, value) where was.old ? x.name) as new) '
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
        'select %6$L, ''value'', %2$L || ''.'' || e.key, jsonb_build_object(''key'', n.row_key, ''old'', e.value, ''new'', n.new -> e.key) '
        'from now as n cross join lateral jsonb_each(n.old) as e where e.value is distinct from n.new -> e.key',
        string_agg(format('(%1$L, case when %2$s then %1$I::text end, %2$s)', b.name, b.wrong), ', ' order by b.name),
        target,
        string_agg(b.wrong, ' or ' order by b.name),
        string_agg(format('%1$I = case when not was.old ? %1$L then t.%1$I %2$s end', b.name, b.cases), ', ' order by b.name),
        string_agg(format('(%1$L, case when was.old ? %1$L then t.%1$I::text end)', b.name), ', ' order by b.name),
        revision
      ),
      'undo', format('select profiles_internal.restore_values(%L, %L, ''value'')', revision, target))
    from by_column as b;
  end if;

  if (p_counts ->> 'names')::bigint > 0 then
    return next jsonb_build_object('seq', 85, 'action', 'fit', 'object', target || '.username',
      'found', case when by_name -> 'username' ->> 'found_name' is null then 'missing' else 'of another form, or not alone' end,
      'wanted', 'a username by the rule of sign-up', 'lock', 'ACCESS EXCLUSIVE', 'rows', p_counts -> 'names',
      'seconds', staying * 0.000005 + (p_counts ->> 'names')::bigint * 0.00003,
      'statement', format('select profiles_internal.fit_usernames(%L)', revision),
      'undo', case when by_name -> 'username' ->> 'found_name' is null
        then format('delete from profiles_internal.adopted where revision = %L and object_type = ''value'' and object_name = %L', revision, target || '.username')
        else format('select profiles_internal.restore_values(%L, %L, ''value'')', revision, target) end);
  end if;

  -- Defaults and NOT NULL as ours are.
  return query
  with changed as (
    select c.value ->> 'name' as name, string_agg(x.statement, ', ') as statement, string_agg(x.undo, '; ') as undo,
      string_agg(x.found, ', ') as found, string_agg(x.wanted, ', ') as wanted
    from jsonb_array_elements(columns) as c
    left join jsonb_array_elements(fresh) as n on n.value ->> 'name' = c.value ->> 'name'
    cross join lateral (
      select format('alter column %I ', c.value ->> 'name') as alter_column, format('alter table %s ', target) as alter_table,
        c.value ->> 'found_name' is not null as was_there,
        c.value ->> 'source' is not null as retyped,
        case when n.value is not null and n.value ->> 'fill' is null then c.value ->> 'wanted_default'
          when c.value ->> 'source' is not null then null else c.value ->> 'found_default' end as default_now,
        case when n.value is not null then n.value ->> 'fill' is null and (n.value ->> 'not_null')::boolean and n.value ->> 'default_value' is not null
          else (c.value ->> 'found_not_null')::boolean end as not_null_now
    ) as a
    cross join lateral (
      select a.alter_column || coalesce('set default ' || (c.value ->> 'wanted_default'), 'drop default') as statement,
        case when a.was_there then a.alter_table || a.alter_column || case when a.retyped then 'drop default' else coalesce('set default ' || (c.value ->> 'found_default'), 'drop default') end end as undo,
        coalesce('default ' || (c.value ->> 'found_default'), 'no default') as found,
        coalesce('default ' || (c.value ->> 'wanted_default'), 'no default') as wanted
      where c.value ->> 'wanted_type' is not null and a.default_now is distinct from c.value ->> 'wanted_default'
        and a.default_now is distinct from 'identity'
      union all
      select a.alter_column || 'set not null',
        case when a.was_there then a.alter_table || a.alter_column || 'drop not null' end, 'nullable', 'not null'
      where (c.value ->> 'wanted_not_null')::boolean and not a.not_null_now and c.value ->> 'name' <> 'id'
    ) as x
    group by c.value ->> 'name'
  )
  select jsonb_build_object('seq', 90, 'action', 'convert',
    'object', format('%s.%s', target, d.name), 'found', d.found, 'wanted', d.wanted, 'undo', d.undo)
  from changed as d
  union all
  select jsonb_build_object('seq', 91, 'action', 'convert', 'object', target, 'found', 'defaults and NOT NULL of theirs', 'wanted', 'as said above',
    'lock', 'ACCESS EXCLUSIVE', 'seconds', staying * 0.000001, 'statement', format('alter table %s %s', target, string_agg(d.statement, ', ' order by d.name)))
  from changed as d
  having count(*) > 0;
end
$adoption_fields$;

revoke all on function profiles_internal.adoption_fields(jsonb, jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What the roles of the API go on doing with one table that is taken over, by name, when ours come (0009):
--   columns of the application's own are inserted and updated by whom they are today;
--   anon reads the columns of today. Row level security shows it no row without a policy, but a statement does not fail;
--   users write avatar_url, which is a picture of theirs; an UPDATE may name updated_at (a trigger sets it) and the column that
--   says whose row it is (policies keep it);
--   users insert their own row, if a policy lets them today ("inserts": policies/user_profiles.sql).
-- It is on record, for whatever takes rights away to give them again.
create or replace function profiles_internal.adoption_rights(p_context jsonb)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_rights$
declare
  relation constant regclass := p_context ->> 'found';
  target constant text := p_context ->> 'target';
  authenticated constant oid := (select r.oid from pg_roles as r where r.rolname = 'authenticated');
  rights jsonb;
  inserts boolean;
begin
  select jsonb_agg(jsonb_build_object('role', r.rolname, 'right', k.name, 'column', c.value ->> 'name', 'ours', o.is_ours)
    order by r.rolname, (c.value ->> 'found_position')::integer, k.name)
  into rights
  from jsonb_array_elements(p_context -> 'columns') as c
  cross join lateral (select c.value ->> 'wanted_type' is not null as is_ours) as o
  join pg_roles as r on r.rolname in ('anon', 'authenticated') and not r.rolbypassrls
  cross join unnest(array['select', 'insert', 'update']) as k (name)
  where c.value ->> 'found_name' is not null
    and has_column_privilege(r.oid, relation, (c.value ->> 'found_position')::smallint, k.name)
    and case
      when k.name = 'select' then r.rolname = 'anon'
      when o.is_ours then r.oid = authenticated and (
        c.value ->> 'name' = 'avatar_url' or k.name = 'update' and (c.value ->> 'name' = 'updated_at' or p_context ->> 'table' = 'user_profiles' and c.value ->> 'found_name' = p_context ->> 'owner'))
      else true
    end;
  inserts := p_context ->> 'table' = 'user_profiles' and exists (
    select
    from pg_class as c
    where c.oid = relation and has_any_column_privilege(authenticated, c.oid, 'insert') and (not c.relrowsecurity or exists (
      select
      from profiles_internal.adoption_policies('user_profiles', relation) as p join pg_policy as y on y.oid = p.policy
      where y.polpermissive and p.command in ('a', '*') and y.polroles && array[0::oid, authenticated] and p.fate <> 'unused'
    ))
  );
  return query
  select jsonb_build_object('seq', 11, 'action', 'note', 'object', target, 'found', 'rights of users', 'wanted', 'kept by name',
    'statement', format('insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''rights'', %L, %L)',
      p_context ->> 'by', target, jsonb_build_object('inserts', inserts, 'rights', coalesce(rights, '[]'))),
    'remedy', nullif(concat_ws(' ',
      'Users go on writing these columns: ' || string_agg(distinct quote_ident(x.name), ', ') filter (where x.who = 'authenticated' and (not x.is_ours or x.name = 'avatar_url')) || '.',
      case when inserts then 'They go on inserting their own row.' end), ''))
  from (select 1) as one
  left join lateral (
    select r ->> 'role' as who, r ->> 'column' as name, (r ->> 'ours')::boolean as is_ours from jsonb_array_elements(rights) as r
  ) as x on true;
  if has_table_privilege(authenticated, relation, 'delete') and p_context ->> 'table' <> 'user_api_keys' then
    -- A policy for this very purpose is no accident.
    return query
    select jsonb_build_object('seq', 2, 'action', 'question', 'id', 'delete:' || target, 'object', target,
      'found', format('policy "%s" lets users delete rows', min(y.polname)),
      'answers', jsonb_build_object('refuse', 'a DELETE by users fails (42501): let a server delete the user, with whom the row goes, or the row'))
    from pg_policy as y
    where y.polrelid = relation and y.polcmd = 'd' and y.polpermissive and y.polroles && array[0::oid, authenticated]
      and (select c.relrowsecurity from pg_class as c where c.oid = relation)
    having count(*) > 0;
    return next jsonb_build_object('seq', 11, 'action', 'note', 'object', target, 'found', 'users have the right to delete rows', 'wanted', 'refused',
      'remedy', 'A DELETE by users fails (42501). What is to be deleted goes with its user, or a server deletes it.');
  end if;
  if exists (select from jsonb_array_elements(rights) as r where r ->> 'role' = 'anon') then
    return next jsonb_build_object('seq', 11, 'action', 'note', 'object', target, 'found', 'rights of anon', 'wanted', 'on the columns of today',
      'remedy', format('anon (no account) keeps its rights on the columns of today by name: it reads the rows that a policy shows to it. '
        'Its other statements on %s fail (42501), select * too.', target));
  end if;
end
$adoption_rights$;

revoke all on function profiles_internal.adoption_rights(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The steps that take one existing table over, in no particular order ("seq" says it), or what stands against it.
-- Everything is asked of the catalog and of the rows; nothing is assumed about which system made the table.
create or replace function profiles_internal.adoption_of_table(p_table text, p_found regclass)
returns setof jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_of_table$
declare
  context constant jsonb := profiles_internal.adoption_context(p_table, p_found);
  target constant text := context ->> 'target';
  stops constant jsonb[] := array(select s from profiles_internal.adoption_stops(context) as s);
  counts jsonb;
  total bigint;
  seconds double precision;
  measured double precision;
  pace double precision;
  stopped boolean;
  unreadable boolean;
begin
  return query select s || jsonb_build_object('revision', context -> 'by') from unnest(stops) as s;
  select coalesce(bool_or(true), false), coalesce(bool_or(s ->> 'seq' = '0'), false) into stopped, unreadable
  from unnest(stops) as s where s ->> 'action' = 'stop';
  if context ->> 'asks' is not null then
    return next jsonb_build_object('revision', context -> 'by', 'seq', 1, 'action', 'question', 'id', 'key:' || target, 'object', target,
      'found', format('no column of %s leads to a user in auth.users', p_found), 'answers', context -> 'asks');
  end if;
  if unreadable or context ->> 'user' is null and context ->> 'asks' is not null then
    return;
  end if;

  counts := profiles_internal.adoption_counts(context);
  total := counts ->> 'total';
  -- Measured on ordinary rows, with nothing to mend (benchmarks/adopt.py), and compared with this server.
  measured := profiles_internal.adoption_pace(context, counts);
  pace := coalesce(measured, 1);
  seconds := pace * (total * 0.00005 + (counts ->> 'bytes')::bigint * 0.00000005);
  return query
  select jsonb_build_object('revision', context -> 'by', 'seq', 2, 'action', 'stop') || s.problem
  from (
    select jsonb_build_object('object', format('%s.%s', target, b.value ->> 'column'),
      'found', context -> 'by_name' -> (b.value ->> 'column') ->> 'found_type',
      'wanted', context -> 'by_name' -> (b.value ->> 'column') ->> 'wanted_type',
      'remedy', format('It holds values that do not convert (SQLSTATE %s). Mend them, or rename the column.', b.value ->> 'code')) as problem
    from jsonb_array_elements(counts -> 'broken') as b
    union all
    select jsonb_build_object('object', target, 'found', 'API keys in plain text', 'wanted', 'encrypted ones', 'rows', counts -> 'plain_keys',
      'remedy', 'Encrypt them first, in the table as it is: profiles-schema keys encrypt')
    where (counts ->> 'plain_keys')::bigint > 0
    union all
    select jsonb_build_object('object', target, 'found', format('user_id %s', context -> 'by_name' -> 'external_id' ->> 'found_type'),
      'wanted', 'user_id uuid, of auth.users', 'rows', total,
      'remedy', format('An auth server makes the users here, so none can be made for these rows. Say which user each belongs to: '
        'alter table %1$s rename column user_id to external_id; alter table %1$s add column user_id uuid;', p_found))
    where (context ->> 'makes_users')::boolean and not (context ->> 'own')::boolean and total > 0
    union all
    select jsonb_build_object('object', target || '.user_id', 'found', format('another user than %s', context ->> 'owner'),
      'wanted', 'the user whose row it is', 'rows', context -> 'conflicts',
      'remedy', format('Rename what it is: alter table %s rename column user_id to former_user_id;', p_found))
    where (context ->> 'conflicts')::bigint > 0
  ) as s;
  stopped := stopped or found;
  -- Two forecasts differ. So the dry run asks from two seconds on, the upgrade from four, and the plan allows an answer that
  -- the forecast of now does not need.
  if seconds > (case when current_setting('profiles_schema.dry_run', true) = 'yes' then 2 else 4 end) then
    return next jsonb_build_object('revision', context -> 'by', 'seq', 2, 'action', 'question', 'id', 'lock:' || target, 'object', target,
      'found', format('%s rows, locked for about %s seconds, by a forecast that may be wrong by a factor of %s', total, ceil(seconds),
        case when measured is null then '6: it was not timed on this server' else '3: a sample of them was timed on this server' end),
      'rows', total, 'seconds', seconds, 'lock', 'ACCESS EXCLUSIVE',
      'answers', jsonb_build_object('accept', 'it is taken over; who reads or writes it meanwhile waits'));
  end if;
  return query
  select s || jsonb_build_object('revision', context -> 'by') from profiles_internal.adoption_quarantine(context, counts) as s;
  return query
  select jsonb_build_object('revision', context -> 'by', 'seq', 2, 'action', 'question', 'id', format('required:%s.%s', target, r.name),
    'object', format('%s.%I', target, r.name), 'found', 'not null, without a default: a sign-up cannot fill it',
    'wanted', 'a value for every new user',
    'answers', jsonb_build_object('relax', format('it may be null, and is null for every new user. To keep it filled, give it a default before the upgrade: '
      'alter table %s alter column %I set default ...', p_found, r.name)))
  from unnest(profiles_internal.required_columns(context)) as r (name);
  if stopped then
    -- All that stands against it, at once.
    if counts ? 'total' then
      return query
      select s || jsonb_build_object('revision', context -> 'by')
      from profiles_internal.adoption_keys(context, counts) as s where s ->> 'action' = 'stop';
    end if;
    return;
  end if;

  return query
  select s || jsonb_build_object('revision', context -> 'by')
    || case when s ? 'seconds' then jsonb_build_object('seconds', (s ->> 'seconds')::double precision * pace) else '{}' end
  from (
    select profiles_internal.adoption_frame(context, counts)
    union all
    select profiles_internal.adoption_keys(context, counts)
    union all
    select profiles_internal.adoption_fields(context, counts)
    union all
    select profiles_internal.adoption_contacts(context)
    union all
    select profiles_internal.adoption_defaults(context)
    union all
    select profiles_internal.adoption_rights(context)
    union all
    -- Kept for whoever wants to know what was here, and for downgrade.
    select jsonb_build_object('seq', 10, 'action', 'note', 'object', target, 'found', format('%s rows', total), 'wanted', 'taken over',
      'rows', total, 'lock', 'ACCESS EXCLUSIVE', 'seconds', total * 0.00002 + (counts ->> 'bytes')::bigint * 0.000000005,
      'statement', format(
        'insert into profiles_internal.adopted (revision, object_type, object_name, data) values (%L, ''table'', %L, %L::jsonb || jsonb_build_object(''at'', now()))', context ->> 'by', target,
        jsonb_build_object('found_as', p_found::text, 'rows', total, 'owner', context -> 'owner', 'columns', (
          select jsonb_agg(jsonb_build_object('name', c.value -> 'found_name', 'type', c.value -> 'found_type', 'not_null', c.value -> 'found_not_null',
            'default', c.value -> 'found_default', 'position', c.value -> 'found_position', 'now', c.value -> 'name'))
          from jsonb_array_elements(context -> 'columns') as c where c.value ->> 'found_name' is not null
        ))))
  ) as x (s);
end
$adoption_of_table$;

revoke all on function profiles_internal.adoption_of_table(text, regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What becomes of the policies of one table when ours come, and the questions about those that show or give others' rows
-- away. One that goes takes rows from whatever reads the table as whoever asks: each such object is a question too.
create or replace function profiles_internal.adoption_of_policies(p_table text, p_found regclass)
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_of_policies$
declare
  target constant text := 'public.' || p_table;
  step constant jsonb := jsonb_build_object('revision', '0009_create_policies', 'lock', 'ACCESS EXCLUSIVE');
  reads constant boolean := exists (
    select from profiles_internal.adoption_policies(p_table, p_found) as p where p.command in ('r', '*') and p.id is not null
  );
  -- What users may write in our tables, by our rights.
  writable constant text := case p_table
    when 'user_profiles' then 'names, bio, texts, pictures, emoji, visibility, metrics, preferences, notifications, time zone and language'
    when 'user_progress' then 'total_points and the counts of words'
    when 'user_api_keys' then 'the keys'
    when 'export_history' then 'filters'
    else 'nothing' end;
  added text;
  sensitive constant text[] := array[
    'email', 'phone', 'first_name', 'last_name', 'role', 'last_login', 'external_id', 'referral_code', 'preferences', 'metadata', 'personality_traits'
  ];
  readers text;
  policy record;
begin
  if reads then
    -- What is personal comes first. The second line is for the file of answers alone.
    select format('%s columns that the upgrade adds, too%s%s', count(*), ': ' || string_agg(c.name, ', ' order by c.place) filter (where c.place <= 8),
      case when count(*) > 8 then format(E', and %s more\nAll of them: %s', count(*) - 8, string_agg(c.name, ', ' order by c.name)) end)
    into added
    from (
      select c.name, row_number() over (order by array_position(sensitive, c.name), c.name) as place
      from profiles_internal.adoption_columns(p_table, profiles_internal.table_to_adopt(p_table)) as c
      where c.found_name is null and c.wanted_type is not null
    ) as c;
    select string_agg(r.name, ', ' order by r.name) into readers from profiles_internal.table_readers(p_found) as r where not r.as_owner;
  end if;

  for policy in
    select p.*, case p.command when 'r' then 'read' when 'a' then 'insert' when 'w' then 'change' when 'd' then 'delete' else 'read and write' end as verb,
      coalesce((
        select string_agg(case when m.role = 0 then 'everybody' else pg_get_userbyid(m.role) end, ', ' order by m.role)
        from pg_policy as y cross join lateral unnest(y.polroles) as m (role) where y.oid = p.policy
      ), 'everybody with rights') as who
    from profiles_internal.adoption_policies(p_table, p_found) as p
    -- Until ours are there (the triggers come right after them), one that bears a name of ours is theirs, too.
    where not ((p.name like 'Owners can %' or p.name = 'Service role can do what its grants allow') and to_regproc('profiles_internal.keep_updated_at') is not null)
    order by p.name
  loop
    if policy.id is not null then
      return next step || jsonb_build_object('seq', 5, 'action', 'question', 'id', policy.id, 'object', target,
        'found', case when policy.policy is null then 'no row level security: everybody with rights on it reads and writes every row'
          else format('policy "%s" lets %s %s rows: %s', policy.name, policy.who, policy.verb, (
            select regexp_replace(concat_ws(' with check ', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid)), '\s+', ' ', 'g')
            from pg_policy as y where y.oid = policy.policy
          )) end,
        'answers', jsonb_strip_nulls(jsonb_build_object(
          'keep', case when p_table <> 'user_api_keys' and policy.name not like 'Owners can %' and policy.name <> 'Service role can do what its grants allow' then concat_ws('; ',
            case when policy.policy is null then 'row level security is on, with a policy that lets everybody read every row, and users write their own' else 'it stays' end,
            case when policy.is_narrower then 'but beside it, ours let users do the same with their own row without its further condition' end,
            case when policy.command in ('w', '*') then format('whoever it is for could change in every row that it shows what users may write: %s', writable) end,
            case when policy.command in ('a', '*') then 'rows are inserted only by whom our rights let do so' end,
            case when policy.command in ('r', '*') then 'everybody for whom it is reads the ' || added end
          ) end,
          'restrict', case when policy.is_narrower then 'it becomes restrictive, with the same condition: users do this with their own row only where its condition is true, as today' end,
          'replace', concat_ws('; ', case when policy.policy is null then 'row level security is on' else 'it is set aside' end,
            'users ' || case when policy.command in ('r', '*') then 'read their own rows' || case p_table when 'user_profiles' then ', and of others what get_public_profile gives' else '' end else 'write their own rows alone' end,
            case when policy.command in ('r', '*') and readers is not null then 'then these find less, and each is a question: ' || readers end)
        )));
    end if;

    if policy.fate = 'stays' then
      return next step || jsonb_build_object('seq', 10, 'action', 'keep', 'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'one of the application', 'wanted', case when policy.id is null then 'stays: it only takes away' else 'stays, as answered' end,
        -- For health.
        'statement', case when policy.id is not null then format(
          'insert into profiles_internal.settings as s (key, value) values (''accepted_policies'', jsonb_build_array(%L)) on conflict (key) do update set value = s.value || excluded.value',
          format('%s.%s', target, policy.name)) end,
        'undo', case when policy.id is not null then
          format('update profiles_internal.settings set value = value - %L where key = ''accepted_policies''', format('%s.%s', target, policy.name)) end);
    elsif policy.fate = 'restrict' then
      return next step || jsonb_build_object('seq', 10, 'action', 'convert', 'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'permissive', 'wanted', 'restrictive, as answered',
        'statement', format('drop policy %I on %s; %s', policy.name, p_found, profiles_internal.policy_text(policy.policy, null, true)),
        'undo', format('drop policy if exists %I on %s; %s', policy.name, p_found, profiles_internal.policy_text(policy.policy)));
    elsif policy.policy is not null then
      return next step || jsonb_build_object('seq', 10, 'action', 'set aside', 'object', format('policy "%s" on %s', policy.name, p_found),
        'found', 'one of the application', 'wanted', 'ours',
        'statement', format('drop policy %I on %s', policy.name, p_found), 'undo', profiles_internal.policy_text(policy.policy),
        'remedy', case when policy.fate = 'unused' or p_table <> 'user_api_keys' and policy.command in ('d', '*') and policy.who ~ 'everybody|authenticated'
          then format('It lets %s %s rows; the roles of the API have no right to that afterwards.', policy.who, case policy.command when '*' then 'delete' else policy.verb end) end);
    end if;
  end loop;

  if exists (
    select from profiles_internal.adoption_policies(p_table, p_found) as p where p.command in ('r', '*') and p.answer = 'replace'
  ) then
    return query
    select step || jsonb_build_object('seq', 6, 'action', 'question', 'id', 'reads:' || r.name, 'object', r.name,
      'found', format('reads %s with the rights of whoever asks', target),
      'answers', jsonb_build_object('accept', format('it finds in %s only the row of whoever asks, where today an open policy shows it others'' rows; look at what it decides by that', target)))
    from profiles_internal.table_readers(p_found) as r
    where not r.as_owner;
  end if;
end
$adoption_of_policies$;

revoke all on function profiles_internal.adoption_of_policies(text, regclass) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Gives the roles of the API what they go on doing with tables that were taken over (adoption_rights), after something has
-- taken all rights away.
create or replace function profiles_internal.grant_kept_rights()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $grant_kept_rights$
declare
  kept record;
begin
  for kept in
    select a.object_name as relation, r.value ->> 'role' as who, r.value ->> 'right' as name, string_agg(quote_ident(c.attname), ', ') as columns
    from profiles_internal.adopted as a
    cross join lateral jsonb_array_elements(a.data -> 'rights') as r
    join pg_attribute as c on c.attrelid = to_regclass(a.object_name) and c.attname = r.value ->> 'column' and not c.attisdropped
    where a.object_type = 'rights'
    group by a.object_name, r.value ->> 'role', r.value ->> 'right'
  loop
    execute format('grant %s (%s) on table %s to %I', kept.name, kept.columns, kept.relation, kept.who);
  end loop;
end
$grant_kept_rights$;

revoke all on function profiles_internal.grant_kept_rights() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What acts beside ours, and is set aside when ours come: functions of our names, policies on our tables, triggers that
-- write our tables, and counters that sessions say better.
create or replace function profiles_internal.adoption_of_objects()
returns setof jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $adoption_of_objects$
declare
  our_tables constant regclass[] := array_remove(array[
    to_regclass('public.user_profiles'), to_regclass('public.user_progress'), to_regclass('public.user_api_keys'),
    to_regclass('public.export_history'), to_regclass('public.user_profile_audit_logs'),
    to_regclass('public.' || quote_ident(nullif(current_setting('profiles_schema.adopt_table', true), '')))
  ], null);
  names constant text := concat_ws('|', 'user_profiles', 'user_progress', 'user_api_keys', 'export_history', 'user_profile_audit_logs',
    nullif(regexp_replace(current_setting('profiles_schema.adopt_table', true), '(\W)', '\\\1', 'g'), ''));
  -- Columns that will have another name or type.
  changing constant text := coalesce((
    select string_agg(distinct c.found_name, '|')
    from profiles_internal.wanted_shape() as w
    cross join lateral profiles_internal.adoption_columns(w.name, profiles_internal.table_to_adopt(w.name)) as c
    where w.kind = 'comment' and c.found_name is not null and (c.found_name <> c.name or c.source is not null)
  ), '$^');
begin
  -- Triggers on auth.users: empty from the moment the tables change, dropped when ours are there. One whose text leaves in
  -- doubt what else it does, or would fail from then on, stands against it: a sign-up would pay for it.
  return query
  select jsonb_strip_nulls(s.step)
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  cross join lateral (
    select
      pg_has_role(f.proowner, 'usage') as may_change,
      exists (select from pg_trigger as o where o.tgfoid = f.oid and o.tgrelid <> t.tgrelid) as is_shared,
      profiles_internal.written_tables(f.oid, true) as ours,
      profiles_internal.written_tables(f.oid, false) as others,
      f.prosrc like '%profiles_schema: set aside%' as is_empty,
      pg_has_role((select c.relowner from pg_class as c where c.oid = t.tgrelid), 'usage') as may_drop,
      (select count(*) from pg_trigger as o where o.tgfoid = f.oid) as uses,
      (select string_agg(r.body, ' ') from profiles_internal.reached_functions(f.oid) as r) as body
  ) as a
  cross join lateral (
    select
      cardinality(a.ours) > 0 or a.is_empty as acts,
      a.body ~* ('\m(' || names || ')\M') as names_ours,
      a.body ~* '\mexecute\M' as is_dynamic,
      -- It stays, and does not write our tables; but what it reads of them changes, or a trigger of a table that it writes does.
      (
        select min(q.what)
        from (
          select 'reads columns that change' as what
          where a.body ~* ('\m(' || names || ')\M') and regexp_replace(a.body, '\m(new|old)\M"?\s*\.\s*"?\w+', '', 'gi') ~* ('\m(' || changing || ')\M')
          union all
          select format('writes %s, whose trigger %s writes ours', o.tgrelid::regclass, o.tgname)
          from pg_trigger as o
          where not o.tgisinternal and o.tgrelid <> t.tgrelid and o.tgrelid <> all (our_tables)
            and lower(regexp_replace(replace(o.tgrelid::regclass::text, '"', ''), '^public\.', '')) = any (a.others)
            and cardinality(profiles_internal.written_tables(o.tgfoid, true)) > 0
        ) as q
      ) as stumbles
  ) as b
  cross join lateral (
    select case
      when b.acts and not a.may_change then format('It would act beside ours, and its function belongs to %I. Run the upgrade as that role, or drop the trigger.', pg_get_userbyid(f.proowner))
      when b.acts and a.is_shared then 'It would act beside ours, and its function serves other tables, too. Give it a function of its own, or drop the trigger.'
      when b.acts and cardinality(a.others) > 0 then format('It would act beside ours, but it also writes %s. Move that into a trigger function of its own, which then stays.', array_to_string(a.others, ', '))
      when b.acts and a.body ~* '\m(pg_notify|notify)\M' then 'It would act beside ours, but it also notifies. Move that into a trigger function of its own, which then stays.'
      when b.acts and t.tgtype & 2 <> 0 and a.body ~* '\mnew"?\s*\.\s*"?\w+"?\s*:?=' then 'It would act beside ours, but it also changes the row of the user. Move that into a trigger function of its own, which then stays.'
      when b.names_ours and b.is_dynamic then 'It names our tables and puts statements together as it runs, so what it does cannot be seen. Write the statements out, or drop the trigger.'
      when not b.acts and b.stumbles is not null then format('It %s: sign-ups would fail. Drop it, and create it again, adapted, after the upgrade.', b.stumbles)
    end as remedy
  ) as d
  cross join lateral (
    select jsonb_build_object('revision', '0002_create_foundation', 'seq', 1, 'action', 'stop', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'remedy', d.remedy) as step
    where d.remedy is not null
    union all
    select jsonb_build_object('revision', '0002_create_foundation', 'seq', 5, 'action', 'set aside', 'object', 'function ' || f.oid::regprocedure,
      'found', format('trigger %s on auth.users', t.tgname), 'wanted', 'does nothing; who signs up gets a profile at the end',
      'lock', 'SHARE ROW EXCLUSIVE on auth.users',
      'statement', format('create or replace function %s returns trigger language plpgsql as %L', f.oid::regprocedure,
        E'begin\n  /* profiles_schema: set aside */\n  return coalesce(new, old);\nend'),
      'undo', profiles_internal.function_text(f.oid))
    where b.acts and d.remedy is null and not a.is_empty
    union all
    select jsonb_build_object('revision', '0011_create_sign_up_triggers', 'seq', 10, 'action', 'set aside', 'object', format('trigger %s on auth.users', t.tgname),
      'found', 'calls ' || f.oid::regprocedure, 'wanted', 'ours', 'lock', 'ACCESS EXCLUSIVE on auth.users',
      'statement', case when a.may_drop then format('drop trigger if exists %I on auth.users; ', t.tgname) else '' end
        || case when a.uses = 1 or not a.may_drop then format('drop function if exists %s%s', f.oid::regprocedure, case when a.may_drop then '' else ' cascade' end) else '' end,
      'undo', profiles_internal.function_text(f.oid) || '; ' || profiles_internal.trigger_text(t.oid))
    -- What only the owner of auth.users could give back (disabled, or with a comment) stays, emptied.
    where b.acts and d.remedy is null and (a.may_drop or not exists (
      select from pg_trigger as o where o.tgfoid = f.oid and (o.tgenabled <> 'O' or obj_description(o.oid, 'pg_trigger') is not null)
    ))
  ) as s
  where t.tgrelid = to_regclass('auth.users') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and (b.acts or b.names_ours or b.stumbles is not null);

  -- Functions of our names.
  return query
  select jsonb_build_object('revision', '0008_create_functions', 'seq', case when u.used_by is null then 10 else 1 end,
    'action', case when u.used_by is null then 'set aside' else 'stop' end,
    'object', 'function ' || f.oid::regprocedure, 'found', 'one of the application', 'wanted', 'ours',
    'statement', case when u.used_by is null then format('drop routine %s', f.oid::regprocedure) end,
    'undo', case when f.prokind <> 'a' then profiles_internal.function_text(f.oid) end,
    'remedy', coalesce(u.used_by || ' use it. Drop them, and create them again after the upgrade.',
      'Its callers find ours of that name: the same arguments, its own rights and result.'))
  from pg_proc as f
  cross join lateral (
    select case
      when f.prokind = 'a' then 'It is an aggregate, and nothing puts it back. Programs'
      when not pg_has_role(f.proowner, 'usage') then format('It belongs to role %I, and', pg_get_userbyid(f.proowner))
      else (
        select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
        from pg_depend as d
        where d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid and d.deptype in ('n', 'a')
      )
    end as used_by
  ) as u
  where f.pronamespace = 'public'::regnamespace
    and f.proname = any (profiles_internal.our_public_functions())
    -- Ours, once they are there.
    and (to_regproc('profiles_internal.ensure_profile') is null or 'search_path=pg_catalog, pg_temp' <> all (coalesce(f.proconfig, '{}')));

  return query
  select p.step
  from profiles_internal.adopting_revisions() as r
  cross join lateral (
    select coalesce(profiles_internal.table_to_adopt(r.table_name), to_regclass('public.' || r.table_name)) as oid
  ) as t
  cross join lateral profiles_internal.adoption_of_policies(r.table_name, t.oid) as p (step)
  where t.oid is not null;

  -- What waited for our policies. The application's triggers rest meanwhile: nobody has changed anything.
  if to_regclass('profiles_internal.adopted') is not null and to_regclass('auth.users') is not null then
    return query
    select jsonb_build_object('revision', '0009_create_policies', 'seq', 20, 'action', 'convert', 'object', a.object_name,
      'found', 'new columns, empty', 'wanted', w.listed, 'lock', 'ACCESS EXCLUSIVE', 'rows', (select c.reltuples::bigint from pg_class as c where c.oid = to_regclass(a.object_name)),
      'statement', format(
        'alter table %1$s disable trigger user; '
        'update %1$s as t set %2$s from auth.users as u cross join lateral profiles_internal.profile_values(array[to_jsonb(u.*)]) as v where u.id = t.user_id; '
        'set constraints all immediate; %3$s',
        a.object_name, w.assigned, coalesce(x.states, '')))
    from profiles_internal.adopted as a
    cross join lateral (
      select string_agg(c.name, ', ') as listed, string_agg(format('%1$I = v.%1$I', c.name), ', ') as assigned
      from jsonb_array_elements_text(a.data) as c (name)
    ) as w
    cross join lateral (
      select string_agg(
        format('alter table %s %s trigger %I', a.object_name,
          case t.tgenabled when 'O' then 'enable' when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end, t.tgname),
        '; ' order by t.tgname) as states
      from pg_trigger as t where t.tgrelid = to_regclass(a.object_name) and not t.tgisinternal
    ) as x
    where a.object_type = 'fill' and to_regproc('profiles_internal.keep_updated_at') is null;
  end if;

  -- Triggers on sessions that count progress.
  return query
  select jsonb_strip_nulls(jsonb_build_object('revision', '0010_create_table_triggers', 'seq', 10, 'action', case when a.remedy is null then 'set aside' else 'stop' end,
    'object', format('trigger %s on public.sessions', t.tgname), 'found', 'calls ' || t.tgfoid::regprocedure, 'wanted', 'ours',
    'lock', 'ACCESS EXCLUSIVE', 'statement', format('drop trigger %I on public.sessions', t.tgname), 'undo', profiles_internal.trigger_text(t.oid),
    'remedy', a.remedy))
  from pg_trigger as t
  join pg_proc as f on f.oid = t.tgfoid
  cross join lateral (select profiles_internal.written_tables(f.oid, false) as others) as w
  cross join lateral (
    select case
      when cardinality(w.others) > 0 then format('It would count beside ours, but it also writes %s. Move that into a trigger function of its own, which then stays.', array_to_string(w.others, ', '))
      when not pg_has_role((select c.relowner from pg_class as c where c.oid = t.tgrelid), 'usage') then 'It would count beside ours, and the table belongs to somebody else, who can drop it.'
    end as remedy
  ) as a
  where t.tgrelid = to_regclass('public.sessions') and not t.tgisinternal
    and f.pronamespace <> coalesce(to_regnamespace('profiles_internal'), 0)
    and 'user_progress' = any (profiles_internal.written_tables(f.oid, true));
end
$adoption_of_objects$;

revoke all on function profiles_internal.adoption_of_objects() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The plan by which an upgrade takes over tables that are there already: a row per step, in the order in which they are
-- done, the reasons against it first. `profiles-schema adopt --dry-run` prints it, revision 0002 refuses by it, and the
-- revisions carry it out (profiles_internal.adopt).
-- Tables that the revisions have made or taken over already are left out: they bear our comment.
-- A question stands in the way until it is answered (profiles_internal.answer); then its action is 'answered', and its
-- "wanted" the answer.
create or replace function profiles_internal.adoption_plan(p_revision text default null)
returns table (
  seq integer, revision text, object text, found text, wanted text, action text, lock text, "rows" bigint,
  seconds double precision, statement text, undo text, remedy text, id text, answers jsonb
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $adoption_plan$
declare
  other_name constant text := nullif(current_setting('profiles_schema.adopt_table', true), '');
  steps jsonb := '[]';
  taken text[] := '{}';
  planned record;
  relation regclass;
begin
  for planned in
    select w.name as table_name, w.definition as our_comment, r.revision
    from profiles_internal.wanted_shape() as w
    join profiles_internal.adopting_revisions() as r on r.table_name = w.name
    where w.kind = 'comment' and (p_revision is null or p_revision = r.revision)
    order by r.place
  loop
    relation := profiles_internal.table_to_adopt(planned.table_name);
    if planned.table_name = 'user_profiles' and other_name is not null and (
      relation is null and obj_description(to_regclass('public.user_profiles'), 'pg_class') is distinct from planned.our_comment
      or relation is not null and relation is distinct from to_regclass('public.' || quote_ident(other_name))
    ) then
      steps := steps || jsonb_build_object('seq', 0, 'revision', planned.revision, 'action', 'stop', 'object', 'public.' || other_name,
        'found', case when to_regclass('public.' || quote_ident(other_name)) is null then 'no such table' else 'public.user_profiles exists, too' end,
        'wanted', 'one table of profiles', 'remedy', 'Correct -x adopt-table, or leave it away.');
    elsif relation is not null then
      taken := taken || ('public.' || planned.table_name);
      steps := steps || coalesce(
        (
          -- What is to be mended now is called as it is called now.
          select jsonb_agg(case when s ->> 'action' in ('stop', 'question') then s || (
            select jsonb_object_agg(t.key, regexp_replace(t.value, '\mpublic\.' || planned.table_name || '\M', relation::text, 'g'))
            from jsonb_each_text(s) as t where t.key in ('object', 'found', 'remedy')
          ) else s end)
          from profiles_internal.adoption_of_table(planned.table_name, relation) as s
        ), '[]'
      );
    end if;
  end loop;

  -- A revision that takes a table over has locked it, and has none of these.
  if p_revision is null or p_revision not in (select r.revision from profiles_internal.adopting_revisions() as r) then
    steps := steps || coalesce((
      select jsonb_agg(s) from profiles_internal.adoption_of_objects() as s
      where p_revision is null or s ->> 'revision' = p_revision
    ), '[]');
  end if;

  -- An answer is for a question of the whole plan, before the first change. One about a lock may have become needless: it
  -- depends on a forecast. So may one about a column that is still nullable after a way back.
  if p_revision is null then
    steps := steps || coalesce((
      select jsonb_agg(jsonb_build_object('seq', 0, 'revision', '0002_create_foundation', 'action', 'stop', 'id', g.id, 'object', format('answer %I', g.id),
        'found', g.answer, 'wanted', 'no answer', 'remedy', 'No question needs it. Remove it from the file of answers.') order by g.id)
      from jsonb_each_text(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb) as g (id, answer)
      -- What stands in the way may hide a question.
      where not jsonb_path_exists(steps, '$[*] ? (@.id == $id || @.action == "stop")', jsonb_build_object('id', g.id)) and g.answer <> ''
        and regexp_replace(g.id, '^required:(.*)[.][^.]*$', 'lock:\1') <> all (array(select 'lock:' || t.name from unnest(taken) as t (name)))
    ), '[]');
  end if;
  -- What has been done by an answer is done.
  steps := steps || coalesce((
    select jsonb_agg(jsonb_build_object('seq', 0, 'revision', coalesce(p_revision, '0011_create_sign_up_triggers'), 'action', 'stop', 'id', g.id,
      'object', format('answer %I', g.id), 'found', g.answer, 'wanted', profiles_internal.answer(g.id),
      'remedy', format('The upgrade began with the answer "%s". Give that one again, or go back first: profiles-schema downgrade base',
        profiles_internal.answer(g.id))) order by g.id)
    from jsonb_each_text(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb) as g (id, answer)
    where g.answer <> '' and g.answer <> profiles_internal.answer(g.id)
  ), '[]');

  return query
  select (row_number() over (order by q.action not in ('stop', 'question'), x.revision, x.seq, x.ordinality))::integer, x.revision, x.object, x.found,
    case q.action when 'question' then 'an answer' when 'answered' then q.given else x.wanted end, q.action, x.lock, x."rows", x.seconds, x.statement, x.undo,
    case q.action when 'question' then format('%sAnswer %I with %s.',
      case when q.given is not null then format('"%s" is no answer to it. ', q.given) end,
      x.id, (select string_agg(format('"%s" (%s)', a.key, split_part(a.value, E'\n', 1)), ' or ') from jsonb_each_text(x.answers) as a)) else x.remedy end,
    x.id, x.answers
  from rows from (jsonb_to_recordset(steps) as (
    seq integer, revision text, object text, found text, wanted text, action text, lock text, "rows" bigint,
    seconds double precision, statement text, undo text, remedy text, id text, answers jsonb
  )) with ordinality as x
  cross join lateral (
    select g.given, case when x.action = 'question' and x.answers ? g.given then 'answered' else x.action end as action
    from (select case when x.action = 'question' then profiles_internal.answer(x.id) end as given) as g
  ) as q
  order by 1;
end
$adoption_plan$;

revoke all on function profiles_internal.adoption_plan(text) from public, anon, authenticated, service_role;
"""
    )

    op.execute(
        r"""
-- Whether sign-ups work with a table that was just taken over: makes three rows as the sign-up trigger will, without
-- claims, and takes them back. What would refuse them would leave every new user without a profile; it is raised here,
-- with the name of the column, before anything of the revision counts.
-- The rows belong to three new users. Where a trigger of auth.users would act on those, or their making is not allowed, to
-- nobody: then a foreign key to auth.users is all that may refuse them, whatever its name and column, and what runs after it
-- stays untried.
create or replace function profiles_internal.try_sign_ups(p_table text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $try_sign_ups$
declare
  undo constant text := 'PRTRY';
  users uuid[] := array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()];
  made integer;
  error_code text;
  error_message text;
  error_detail text;
  failed_table text;
  failed_column text;
  failed_constraint text;
begin
  begin
    perform set_config(c.name, '', true) from pg_settings as c where c.name in ('request.jwt.claims', 'request.jwt.claim.sub');
    if not exists (
      select from pg_trigger as t
      where t.tgrelid = 'auth.users'::regclass and not t.tgisinternal and t.tgtype & 4 <> 0 and t.tgenabled <> 'D'
    ) then
      begin
        insert into auth.users (id) select u.id from unnest(users) as u (id);
      exception when others then
        null;
      end;
    end if;
    if p_table = 'user_profiles' then
      insert into public.user_profiles (
        id, user_id, username, display_name, first_name, last_name, email, phone, avatar_url, timezone, language,
        email_verified, is_anonymous, last_login, login_count
      )
      select u.id, u.id, replace(u.id::text, '-', ''), null, null, null, null, null, null, 'UTC', 'en', false, false, null, 0
      from unnest(users) as u (id)
      on conflict do nothing;
    else
      insert into public.user_progress (user_id) select u.id from unnest(users) as u (id) on conflict do nothing;
    end if;
    get diagnostics made = row_count;
    if made < 3 then
      raise exception 'a unique index leaves no room for a row per user' using errcode = 'unique_violation';
    end if;
    raise exception 'tried' using errcode = undo;
  exception when query_canceled or assert_failure or others then
    get stacked diagnostics
      error_code = returned_sqlstate, error_message = message_text, error_detail = pg_exception_detail, failed_table = table_name,
      failed_column = column_name, failed_constraint = constraint_name;
  end;

  if error_code in ('55P03', '40P01', '57014') then
    raise exception '%', error_message using errcode = error_code;
  end if;
  if error_code = undo or error_code = '23503' and exists (
    select from pg_constraint as k
    where k.confrelid = 'auth.users'::regclass and k.conname = failed_constraint
      -- Another user than one of the three would be missing at every sign-up.
      and error_detail ~ array_to_string(users, '|')
  ) then
    return;
  end if;
  raise exception 'every sign-up would be left without a row in public.%, because of % (SQLSTATE %): %',
    p_table, coalesce('column ' || nullif(failed_column, ''), 'constraint ' || nullif(failed_constraint, ''), 'a rule of the application'),
    error_code, error_message
    using errcode = error_code, table = p_table, column = failed_column, constraint = failed_constraint,
      detail = concat_ws(' ', 'Tried with three rows, as the sign-up trigger makes them.', 'It failed in ' || nullif(failed_table, '') || '.'),
      hint = 'Nothing of this revision was changed. A sign-up leaves columns of the application at their defaults, and has no claims: auth.uid() is null.';
end
$try_sign_ups$;

revoke all on function profiles_internal.try_sign_ups(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Carries out what the plan says for one revision, in its transaction, and notes how each step is taken back.
-- The plan is made anew, under the locks: what the rows need is known only then.
create or replace function profiles_internal.adopt(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $adopt$
declare
  relation constant regclass := profiles_internal.table_to_adopt((
    select r.table_name from profiles_internal.adopting_revisions() as r where r.revision = p_revision
  ));
  step record;
  refusals text;
  questions text;
  objects oid[];
  failing oid[];
begin
  -- What is checked at commit would stand in the way of the next change of the table.
  set constraints all immediate;
  -- Nobody signs up while the trigger of a sign-up changes. A revision that takes a table over changes none.
  if relation is null and exists (
    select from profiles_internal.adoption_of_objects() as s
    where s ->> 'revision' = p_revision and s ->> 'lock' like '%auth.users'
  ) then
    begin
      lock table auth.users in share row exclusive mode;
    exception when insufficient_privilege then
      null;
    end;
  end if;
  if relation is not null then
    -- What reads the table, or has values of its types, has to run afterwards. Looked up before the lock: it takes a while.
    objects := array(
      select r.object from profiles_internal.table_readers(relation) as r
      union
      select d.objid
      from pg_depend as d join pg_type as t on t.oid = d.refobjid
      where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_type'::regclass and (
        t.typrelid = relation
        or exists (select from pg_type as e where e.typrelid = relation and e.typarray = t.oid)
        or t.typtype <> 'b' and exists (select from pg_attribute as a where a.attrelid = relation and a.atttypid = t.oid)
      )
    );
    failing := array(select f.object from profiles_internal.failing_objects(objects) as f);
    execute format('lock table %s in access exclusive mode', relation);
  end if;

  -- From here on the answers are the ones that the whole plan was looked at with.
  if p_revision = '0002_create_foundation' then
    insert into profiles_internal.adopted (revision, object_type, object_name, data)
    select p_revision, 'answer', g.key, g.value
    from jsonb_each(coalesce(nullif(current_setting('profiles_schema.answers', true), ''), '{}')::jsonb) as g where g.value <> '""';
  end if;

  for step in select * from profiles_internal.adoption_plan(p_revision) as p order by p.seq loop
    if step.action = 'stop' then
      refusals := concat_ws('; ', refusals, format('%s (%s): %s', step.object, step.found, step.remedy));
    elsif step.action = 'question' then
      questions := concat_ws('; ', questions, format('%s (%s): %s', step.object, step.found, step.remedy));
    end if;
    continue when refusals is not null or questions is not null;
    if step.undo is not null then
      insert into profiles_internal.adopted (revision, object_type, object_name, definition)
      values (p_revision, step.action, step.object, step.undo);
    end if;
    begin
      execute coalesce(step.statement, 'select 1');
    exception when others then
      if sqlstate in ('55P03', '40P01', '57014') then
        raise;
      end if;
      raise exception 'adopting % failed at "%" (%): %', step.object, step.action, coalesce(step.wanted, step.found), sqlerrm
        using errcode = sqlstate, hint = 'Nothing of this revision was changed. The whole plan: profiles-schema adopt --dry-run';
    end;
  end loop;
  if refusals is not null then
    raise exception 'this cannot be taken over as it is: %', concat_ws('; questions that are open, too: ', refusals, questions)
      using hint = 'Nothing of this revision was changed. The whole plan: profiles-schema adopt --dry-run';
  elsif questions is not null then
    raise exception 'questions are open: %', questions
      using hint = 'Nothing of this revision was changed. Write them to a file, and answer them there: '
        'profiles-schema adopt --dry-run --write-answers adopt.toml; then go on with: profiles-schema upgrade -x answers=adopt.toml';
  end if;

  if relation is not null then
    select string_agg(format('%s (%s)', f.name, f.error), '; ' order by f.name) into refusals
    from profiles_internal.failing_objects(objects) as f where f.object <> all (failing);
    if refusals is not null then
      raise exception 'these would no longer run: %', refusals
        using hint = 'Nothing of this revision was changed. Adapt or drop them, then run the upgrade again.';
    end if;
  end if;
  if relation is not null and p_revision in ('0003_create_user_profiles', '0004_create_user_progress') then
    perform profiles_internal.try_sign_ups(regexp_replace(p_revision, '^\d+_create_', ''));
  end if;

  for step in
    select a.object_name as name, a.data -> 'rows' as found_rows,
      (select count(*) from profiles_internal.adopted as v where v.revision = p_revision and v.object_type in ('value', 'found value')) as changed,
      (select count(*) from profiles_internal.quarantine as q where q.table_name = a.object_name) as aside
    from profiles_internal.adopted as a
    where a.revision = p_revision and a.object_type = 'table'
  loop
    raise notice '%: % rows taken over, % values changed (the old ones are in profiles_internal.adopted), % rows in quarantine',
      step.name, step.found_rows, step.changed, step.aside;
  end loop;
end
$adopt$;

revoke all on function profiles_internal.adopt(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- A value that a narrower type may not hold, on its way back: as it is if it fits, else what is given instead.
create or replace function profiles_internal.narrowed(p_value text, p_type text, p_instead text)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $narrowed$
begin
  execute format('select $1::%s', p_type) using p_value;
  return p_value;
exception when data_exception or integrity_constraint_violation then
  return p_instead;
end
$narrowed$;

revoke all on function profiles_internal.narrowed(text, text, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Puts rows out of quarantine back into their table, which has its old columns again: those of p_columns that are still there.
-- A row whose key somebody has by now stays where it is.
create or replace function profiles_internal.bring_back_rows(p_table text, p_columns text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bring_back_rows$
declare
  listed text;
  given text;
  gone record;
  back bigint;
  staying bigint := 0;
begin
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum), string_agg(
    case when a.atttypid in ('json'::regtype, 'jsonb'::regtype) then format('($1 -> %L)::%s', a.attname, a.atttypid::regtype)
      else 'r.' || quote_ident(a.attname) end, ', ' order by a.attnum)
  into listed, given
  from pg_attribute as a
  where a.attrelid = p_table::regclass and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped;
  for gone in
    select q.id, q.row_data from profiles_internal.quarantine as q where q.table_name = p_table order by q.id
  loop
    execute format(
      'insert into %1$s (%2$s) overriding system value select %3$s from jsonb_populate_record(null::%1$s, $1) as r on conflict do nothing',
      p_table, listed, given
    ) using gone.row_data;
    get diagnostics back = row_count;
    if back = 1 then
      delete from profiles_internal.quarantine as q where q.id = gone.id;
    end if;
    staying := staying + 1 - back;
  end loop;
  if staying > 0 then
    raise warning '%: % rows stay in profiles_internal.quarantine, since rows with their keys have come', p_table, staying;
  end if;
end
$bring_back_rows$;

revoke all on function profiles_internal.bring_back_rows(text, text[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Whatever the session of the downgrade prefers, values are compared in the spelling of the upgrade.
-- Gives rows their old values back, where nobody has written another one since.
create or replace function profiles_internal.restore_values(p_revision text, p_table text, p_type text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $restore_values$
declare
  changed record;
begin
  for changed in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type
    from pg_attribute as a
    where a.attrelid = to_regclass(p_table) and a.attnum > 0 and not a.attisdropped and exists (
      select from profiles_internal.adopted as k
      where k.revision = p_revision and k.object_type = p_type and k.object_name = p_table || '.' || a.attname
    )
  loop
    execute format(
      'update %1$s as t set %2$I = (k.data ->> ''old'')::%3$s from profiles_internal.adopted as k '
      'where k.revision = %4$L and k.object_type = %5$L and k.object_name = %6$L '
      'and t.id::text = k.data ->> ''key'' and t.%2$I::text is not distinct from k.data ->> ''new''',
      p_table, changed.name, changed.type, p_revision, p_type, p_table || '.' || changed.name
    );
    delete from profiles_internal.adopted as k
    where k.revision = p_revision and k.object_type = p_type and k.object_name = p_table || '.' || changed.name;
  end loop;
end
$restore_values$;

revoke all on function profiles_internal.restore_values(text, text, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Makes a column NOT NULL again on the way back. Rows that were written since may have left it empty: an outside id gets
-- the user's id instead, and a column with a default its default, as the application would have written it; for the rest
-- the column stays as it is, with a warning.
create or replace function profiles_internal.require_values(p_table regclass, p_column text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $require_values$
declare
  missing bigint;
begin
  if not exists (select from pg_attribute as a where a.attrelid = p_table and a.attname = p_column and a.attnum > 0 and not a.attisdropped) then
    -- The application has dropped it since.
    return;
  end if;
  if p_column = 'external_id' then
    execute format('update %s as t set external_id = t.user_id::text where t.external_id is null', p_table);
  else
    execute format('update %1$s as t set %2$I = default where t.%2$I is null', p_table, p_column);
  end if;
  execute format('select count(*) from %s as t where t.%I is null', p_table, p_column) into missing;
  if missing > 0 then
    raise warning '%.% stays nullable: % rows written since have no value there', p_table, p_column, missing;
  else
    execute format('alter table %s alter column %I set not null', p_table, p_column);
  end if;
end
$require_values$;

revoke all on function profiles_internal.require_values(regclass, text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Gives every profile of an adopted table a username that keeps our rule and is its own. One that keeps the rule stays,
-- reserved or not. Another is made by the rule of sign-up (profile_values) from the old one, or from the email.
-- Of several who end up with the same, whoever had exactly that one keeps it, else the oldest; the others get the choices
-- that a sign-up has when a name is taken, and in the end a random one.
create or replace function profiles_internal.fit_usernames(p_revision text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $fit_usernames$
declare
  renamed bigint;
  -- The profiles' own come later, together with our policies.
  email_waits constant boolean := exists (select from profiles_internal.adopted as a where a.object_type = 'fill' and a.data ? 'email');
begin
  with wish as materialized (
    select
      p.id, p.created_at, p.username as old,
      case when p.username ~ '^[a-z0-9_.-]{3,32}$' then p.username else v.first_username end as name,
      v.second_username, v.third_username
    from public.user_profiles as p
    -- The addresses of the auth server come into the table later, together with the policies that guard them.
    left join auth.users as u on email_waits and u.id = p.user_id
    cross join lateral profiles_internal.profile_values(array[
      jsonb_build_object('id', p.user_id, 'email', coalesce(split_part(p.username, '@', 1), split_part(coalesce(p.email, u.email), '@', 1)) || '@')
    ]) as v
  ),
  first as materialized (
    select w.*, row_number() over (partition by w.name order by w.old is not distinct from w.name desc, w.created_at, w.id) as nth
    from wish as w
  ),
  -- Joins, since a sub-select over names that no longer fit into work_mem would be read once per row.
  second as materialized (
    select f.*, x.name is not null or row_number() over (partition by f.second_username order by f.created_at, f.id) > 1 as taken
    from first as f
    left join first as x on x.nth = 1 and x.name = f.second_username
    where f.nth > 1
  ),
  third as materialized (
    select s.*, x.name is not null or y.id is not null
      or row_number() over (partition by s.third_username order by s.created_at, s.id) > 1 as taken_too
    from second as s
    left join first as x on x.nth = 1 and x.name = s.third_username
    left join second as y on not y.taken and y.second_username = s.third_username
    where s.taken
  ),
  chosen as (
    select f.id, f.old, f.name from first as f where f.nth = 1
    union all
    select s.id, s.old, s.second_username from second as s where not s.taken
    union all
    select t.id, t.old, case when t.taken_too then replace(gen_random_uuid()::text, '-', '') else t.third_username end from third as t
  ),
  done as (
    update public.user_profiles as p
    set username = c.name
    from chosen as c
    where p.id = c.id and p.username is distinct from c.name
    returning p.id, c.old, p.username as new
  )
  insert into profiles_internal.adopted (revision, object_type, object_name, data)
  select p_revision, 'value', 'public.user_profiles.username', jsonb_build_object('key', d.id, 'old', d.old, 'new', d.new)
  from done as d;
  get diagnostics renamed = row_count;
  return renamed;
end
$fit_usernames$;

revoke all on function profiles_internal.fit_usernames(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Counts the progress of an adopted table anew where there are sessions to count from: sums kept by hand drift. Figures
-- that change are kept in profiles_internal.adopted. Users without any ended session keep theirs.
create or replace function profiles_internal.recount_adopted(p_revision text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
as $recount_adopted$
declare
  users uuid[];
  before jsonb;
  figure record;
  changed bigint := 0;
  hits bigint;
begin
  if to_regproc('profiles_internal.roll_up_sessions') is null or not exists (
    select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_progress'
  ) then
    return 0;
  end if;
  users := array(select distinct s.user_id from public.sessions as s where s.ended_at is not null and s.user_id is not null);
  select jsonb_object_agg(p.id, to_jsonb(p)) into before from public.user_progress as p where p.user_id = any (users);
  -- Nobody has changed anything.
  alter table public.user_progress disable trigger keep_updated_at;
  perform profiles_internal.recount_progress(users);
  alter table public.user_progress enable trigger keep_updated_at;
  for figure in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type
    from pg_attribute as a
    where a.attrelid = 'public.user_progress'::regclass and a.attnum > 0 and not a.attisdropped
  loop
    execute format(
      'insert into profiles_internal.adopted (revision, object_type, object_name, data) '
      'select $1, ''value'', %1$L, jsonb_build_object(''key'', p.id, ''old'', (b.value ->> %2$L)::%3$s::text, ''new'', p.%2$I::text) '
      'from public.user_progress as p join jsonb_each($2) as b on b.key = p.id::text where (b.value ->> %2$L)::%3$s is distinct from p.%2$I',
      'public.user_progress.' || figure.name, figure.name, figure.type
    ) using p_revision, before;
    get diagnostics hits = row_count;
    changed := changed + hits;
  end loop;
  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  values (p_revision, 'convert', 'public.user_progress',
    format('select profiles_internal.restore_values(%L, %L, %L)', p_revision, 'public.user_progress', 'value'));
  return changed;
end
$recount_adopted$;

revoke all on function profiles_internal.recount_adopted(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Takes back what one revision did to things that it found, newest first. A CHECK, UNIQUE or foreign key that rows written
-- since do not keep comes back NOT VALID, or not at all, with a warning; anything else that fails stops the downgrade.
create or replace function profiles_internal.put_back_adopted(p_revision text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set extra_float_digits = 1
set check_function_bodies = off
as $put_back_adopted$
declare
  step record;
begin
  -- What is checked at commit would stand in the way of the next change of the table.
  set constraints all immediate;
  for step in
    select a.* from profiles_internal.adopted as a
    where a.revision = p_revision and a.definition is not null
    order by a.id desc
  loop
    begin
      execute step.definition;
    exception
      when check_violation or foreign_key_violation then
        execute step.definition || ' not valid';
        raise warning '% came back NOT VALID: rows written since do not keep it', step.object_name;
      when unique_violation then
        raise warning '% did not come back, since rows written since do not keep it: %', step.object_name, step.definition;
    end;
  end loop;
  delete from profiles_internal.adopted as a where a.revision = p_revision;
end
$put_back_adopted$;

revoke all on function profiles_internal.put_back_adopted(text) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Nothing is changed before this has looked. All that came before it goes with this transaction.
do $preflight$
declare
  problems text;
  questions text;
begin
  -- What exists already is taken over. What stands against that, all of it, and before anything else:
  select
    string_agg(format(E'\n  %s: %s. Wanted: %s. %s', s.object, s.found, s.wanted, s.remedy), '' order by s.seq) filter (where s.action = 'stop'),
    string_agg(format(E'\n  %s: %s. %s', s.object, s.found, s.remedy), '' order by s.seq) filter (where s.action = 'question')
  into problems, questions
  from profiles_internal.adoption_plan() as s;
  if problems is not null then
    raise exception 'what exists already cannot be taken over as it is:%', concat_ws(E'\nQuestions that are open, too:', problems, questions)
      using hint = 'Nothing was changed. The whole plan: profiles-schema adopt --dry-run';
  elsif questions is not null then
    raise exception 'questions about what exists already are open:%', questions
      using hint = 'Nothing was changed. Write them to a file, and answer them there: profiles-schema adopt --dry-run --write-answers '
        'adopt.toml; then: profiles-schema upgrade -x answers=adopt.toml';
  end if;

  if not has_schema_privilege('public', 'create') then
    raise exception 'role % may not create tables in schema public', current_user
      using errcode = 'insufficient_privilege',
        hint = format('Nothing was changed. An administrator runs: grant create on schema public to %I;', current_user);
  end if;

  if to_regclass('auth.users') is not null and to_regprocedure('auth.uid()') is null then
    raise exception 'auth.users exists, but the function auth.uid() does not'
      using hint = 'Nothing was changed. Row level security asks auth.uid() who is calling: create it, then run the upgrade again.';
  end if;

  if to_regclass('public.sessions') is not null and current_setting('profiles_schema.sessions', true) = 'require'
    and (
      select count(*) from pg_attribute as a
      where a.attrelid = to_regclass('public.sessions') and not a.attisdropped
        and a.attname in ('id', 'user_id', 'started_at', 'ended_at', 'duration_minutes', 'descriptions_generated',
          'images_processed', 'qa_attempts', 'vocabulary_learned')
        and (a.attname <> 'user_id' or a.atttypid = 'uuid'::regtype)
        and (a.attname not in ('started_at', 'ended_at') or a.atttypid = 'timestamptz'::regtype)
    ) < 9
  then
    raise exception 'the table sessions is not one of learning sessions, and -x sessions=require asks for one'
      using hint = 'Nothing was changed. Rename that table, or leave the option away: then there is no roll-up.';
  end if;
end
$preflight$;
"""
    )
    op.execute(
        r"""
-- Users. Where an auth server has its table, that one is used and never altered.
do $identity$
begin
  if to_regclass('auth.users') is not null then
    return;
  end if;
  if to_regnamespace('auth') is null then
    create schema auth;
    comment on schema auth is 'profiles-schema: who signs in';
  end if;
  execute $frozen$
create table if not exists auth.users (
  id uuid default gen_random_uuid() not null,
  email text,
  phone text,
  email_confirmed_at timestamp with time zone,
  phone_confirmed_at timestamp with time zone,
  last_sign_in_at timestamp with time zone,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_sso_user boolean default false not null,
  is_anonymous boolean default false not null,
  banned_until timestamp with time zone,
  deleted_at timestamp with time zone,
  created_at timestamp with time zone default now(),
  updated_at timestamp with time zone default now(),
  constraint pk_users primary key (id)
);

comment on table auth.users is 'profiles-schema: who signs in';
$frozen$;
end
$identity$;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.jwt(): the claims of the request, as the API gateway put them into the session.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.jwt()
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $jwt$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$jwt$;

revoke all on function auth.jwt() from public, anon, authenticated, service_role;
grant execute on function auth.jwt() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.uid(): the user the request acts for; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.uid()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $uid$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid
$uid$;

revoke all on function auth.uid() from public, anon, authenticated, service_role;
grant execute on function auth.uid() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.role(): the claim "role" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.role()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $role$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  )
$role$;

revoke all on function auth.role() from public, anon, authenticated, service_role;
grant execute on function auth.role() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- auth.email(): the claim "email" of the request; null without claims.
-- Made only where auth.users did not exist; a hosted auth schema keeps its own.
create or replace function auth.email()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $email$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'
  )
$email$;

revoke all on function auth.email() from public, anon, authenticated, service_role;
grant execute on function auth.email() to anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if coalesce(pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    execute $frozen$
-- Who may do what in schema auth, where it is ours: call the functions that read the claims, and nothing else.
-- The rows of auth.users belong to create_user, to the triggers, and to whoever owns the table.
revoke all on schema auth from public, anon, authenticated, service_role;
revoke all on table auth.users from public, anon, authenticated, service_role;

grant usage on schema auth to anon, authenticated, service_role;

alter table auth.users enable row level security;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.settings (
  key text not null,
  value jsonb not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_settings primary key (key)
);

comment on table profiles_internal.settings is 'Settings that the database itself reads: the feature flag, the audit level, thresholds';
comment on column profiles_internal.settings.key is 'Name of the setting';
comment on column profiles_internal.settings.value is 'Its value';
comment on column profiles_internal.settings.updated_at is 'When it was last set';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.timezones (
  name text not null,
  constraint pk_timezones primary key (name)
);

comment on table profiles_internal.timezones is 'Time zones the server knows, so that validating one is an index probe instead of a directory walk';
comment on column profiles_internal.timezones.name is 'A name of pg_timezone_names';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.jobs (
  id bigint generated always as identity,
  kind text not null,
  state text default 'pending'::text not null,
  parameters jsonb default '{}'::jsonb not null,
  cursor jsonb,
  rows_total bigint,
  rows_done bigint default 0 not null,
  rows_failed bigint default 0 not null,
  batch_rows integer,
  target_ms integer default 100 not null,
  fence bigint default 0 not null,
  runner text,
  heartbeat_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  started_at timestamp with time zone,
  finished_at timestamp with time zone,
  error_code text,
  error_message text,
  constraint pk_jobs primary key (id),
  constraint ck_jobs_state_is_known check (state::text in ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled'))
);

comment on table profiles_internal.jobs is 'Work in batches: where each job stands, so that it can be paused, resumed and taken over';
comment on column profiles_internal.jobs.id is 'Number of the job';
comment on column profiles_internal.jobs.kind is 'What it does, for example backfill';
comment on column profiles_internal.jobs.state is 'Where it stands';
comment on column profiles_internal.jobs.parameters is 'What it was called with; under left_out, until it ends, the rows skipped';
comment on column profiles_internal.jobs.cursor is 'Key of the last row done; null before the first batch';
comment on column profiles_internal.jobs.rows_total is 'Rows to do, as estimated at the start';
comment on column profiles_internal.jobs.rows_done is 'Rows done so far';
comment on column profiles_internal.jobs.rows_failed is 'Rows recorded and skipped';
comment on column profiles_internal.jobs.batch_rows is 'Rows of the present batch size';
comment on column profiles_internal.jobs.target_ms is 'Milliseconds that a batch should take';
comment on column profiles_internal.jobs.fence is 'Grows with every runner; a runner with an older one may not write';
comment on column profiles_internal.jobs.runner is 'Who works on it: host and process id';
comment on column profiles_internal.jobs.heartbeat_at is 'Last sign of life of the runner';
comment on column profiles_internal.jobs.created_at is 'When it was registered';
comment on column profiles_internal.jobs.started_at is 'When the first runner began';
comment on column profiles_internal.jobs.finished_at is 'When it completed, failed or was cancelled';
comment on column profiles_internal.jobs.error_code is 'SQLSTATE of the last error';
comment on column profiles_internal.jobs.error_message is 'The last error by object names, never with values';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.adopted (
  id bigint generated always as identity,
  revision text not null,
  object_type text not null,
  object_name text not null,
  definition text,
  data jsonb,
  created_at timestamp with time zone default now() not null,
  constraint pk_adopted primary key (id)
);

create index if not exists ix_adopted_key on profiles_internal.adopted ((data ->> 'key'));

comment on table profiles_internal.adopted is 'What an upgrade found and set aside; downgrade restores it';
comment on column profiles_internal.adopted.id is 'Order in which things were set aside';
comment on column profiles_internal.adopted.revision is 'The revision that set it aside';
comment on column profiles_internal.adopted.object_type is 'What it is, for example policy, trigger, column';
comment on column profiles_internal.adopted.object_name is 'Its qualified name';
comment on column profiles_internal.adopted.definition is 'SQL that brings it back';
comment on column profiles_internal.adopted.data is 'Values it held that were changed';
comment on column profiles_internal.adopted.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.quarantine (
  id bigint generated always as identity,
  table_name text not null,
  row_data jsonb not null,
  reason text not null,
  created_at timestamp with time zone default now() not null,
  constraint pk_quarantine primary key (id)
);

comment on table profiles_internal.quarantine is 'Rows that adoption could not keep in their table, for example those without a user';
comment on column profiles_internal.quarantine.id is 'Order in which rows were set aside';
comment on column profiles_internal.quarantine.table_name is 'Qualified name of the table the row was in';
comment on column profiles_internal.quarantine.row_data is 'The whole row';
comment on column profiles_internal.quarantine.reason is 'Why it could not stay';
comment on column profiles_internal.quarantine.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.legacy_columns (
  table_name text not null,
  column_name text not null,
  data_type text not null,
  column_default text,
  jsonb_column text not null,
  path text not null,
  state text default 'expanded'::text not null,
  recorded_at timestamp with time zone default now() not null,
  converted_at timestamp with time zone,
  contracted_at timestamp with time zone,
  constraint pk_legacy_columns primary key (table_name, column_name)
);

comment on table profiles_internal.legacy_columns is 'Wide columns that become JSON, as they were found; downgrade recreates them from here';
comment on column profiles_internal.legacy_columns.table_name is 'Name of the table';
comment on column profiles_internal.legacy_columns.column_name is 'Name of the column';
comment on column profiles_internal.legacy_columns.data_type is 'Its type as the server prints it';
comment on column profiles_internal.legacy_columns.column_default is 'Its default as the server prints it';
comment on column profiles_internal.legacy_columns.jsonb_column is 'The JSON column that takes its values';
comment on column profiles_internal.legacy_columns.path is 'The path inside that column, keys separated by dots';
comment on column profiles_internal.legacy_columns.state is 'Where its normalization stands, from expanded to contracted';
comment on column profiles_internal.legacy_columns.recorded_at is 'When it was found';
comment on column profiles_internal.legacy_columns.converted_at is 'When all its values had been converted';
comment on column profiles_internal.legacy_columns.contracted_at is 'When it was dropped';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.kept_json (
  id bigint generated always as identity,
  user_id uuid not null,
  jsonb_column text not null,
  path text not null,
  value jsonb not null,
  kept_at timestamp with time zone default now() not null,
  superseded_at timestamp with time zone,
  constraint pk_kept_json primary key (id),
  constraint fk_kept_json_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists ix_kept_json_user_id on profiles_internal.kept_json (user_id);

comment on table profiles_internal.kept_json is 'JSON values that no wide column can hold, kept over a downgrade';
comment on column profiles_internal.kept_json.id is 'Order in which values were kept';
comment on column profiles_internal.kept_json.user_id is 'Whose value';
comment on column profiles_internal.kept_json.jsonb_column is 'The JSON column it was in';
comment on column profiles_internal.kept_json.path is 'Its path inside that column';
comment on column profiles_internal.kept_json.value is 'The value';
comment on column profiles_internal.kept_json.kept_at is 'When it was put here';
comment on column profiles_internal.kept_json.superseded_at is 'When something newer stood in its place; it does not come back';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.migration_log (
  id bigint generated always as identity,
  revision text not null,
  direction text not null,
  started timestamp with time zone not null,
  seconds double precision,
  role text default CURRENT_USER not null,
  package_version text,
  outcome text default 'running'::text not null,
  users bigint,
  missing bigint,
  constraint pk_migration_log primary key (id),
  constraint ck_migration_log_direction_is_known check (direction::text in ('upgrade', 'downgrade')),
  constraint ck_migration_log_outcome_is_known check (outcome::text in ('running', 'done', 'failed'))
);

comment on table profiles_internal.migration_log is 'Every run of a revision: when, by whom, how long, and the users it left without a profile';
comment on column profiles_internal.migration_log.id is 'Order of the runs';
comment on column profiles_internal.migration_log.revision is 'The revision';
comment on column profiles_internal.migration_log.direction is 'upgrade or downgrade';
comment on column profiles_internal.migration_log.started is 'When it began';
comment on column profiles_internal.migration_log.seconds is 'How long it took; null while it runs';
comment on column profiles_internal.migration_log.role is 'The role that ran it';
comment on column profiles_internal.migration_log.package_version is 'Version of profiles-schema';
comment on column profiles_internal.migration_log.outcome is 'How it ended';
comment on column profiles_internal.migration_log.users is 'Users when it ended';
comment on column profiles_internal.migration_log.missing is 'Users without a profile when it ended';

-- It ran before there was a log.
insert into profiles_internal.migration_log (revision, direction, started, outcome)
values ('0001_default_profile_id', 'upgrade', now(), 'done');
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.health_samples (
  id bigint generated always as identity,
  taken_at timestamp with time zone default now() not null,
  users bigint,
  missing bigint,
  failures bigint,
  findings jsonb default '[]'::jsonb not null,
  constraint pk_health_samples primary key (id)
);

comment on table profiles_internal.health_samples is 'Results of health over time';
comment on column profiles_internal.health_samples.id is 'Order of the samples';
comment on column profiles_internal.health_samples.taken_at is 'When health was run';
comment on column profiles_internal.health_samples.users is 'Users looked at';
comment on column profiles_internal.health_samples.missing is 'Of those, users without a profile';
comment on column profiles_internal.health_samples.failures is 'Failures recorded and not yet repaired';
comment on column profiles_internal.health_samples.findings is 'The findings, one object each';
"""
    )
    op.execute(
        r"""
insert into profiles_internal.timezones (name)
select z.name from pg_timezone_names as z
where z.name !~ '^posix' and z.name <> 'localtime'
on conflict do nothing;

insert into profiles_internal.settings (key, value) values
  ('auto_create_profiles', 'true'),
  ('audit_level', '"changes"'),
  ('normalize_verification_days', '7')
on conflict do nothing;
"""
    )
    op.execute(
        r"""
-- The language of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_language()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_language$
begin
  return 'en'::text;
end
$default_language$;

revoke all on function profiles_internal.default_language() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The timezone of a new profile where the metadata says nothing: the default of the column. An adopted table may have one of the
-- application's; adoption writes it here, because a look into the catalog would cost every sign-up.
create or replace function profiles_internal.default_timezone()
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $default_timezone$
begin
  return 'UTC'::text;
end
$default_timezone$;

revoke all on function profiles_internal.default_timezone() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- What user rows say about their profiles: one row per user row, in their order. The rule stands here alone; sign-up,
-- sign-in, backfill and gen_available_username all ask this.
--
-- A user row comes as JSON, so that a column which this auth server does not have yet reads as null instead of failing.
-- Nothing in the metadata decides authority, and nothing in it can fail: any key may hold any JSON at all, and a value of
-- the wrong type or shape is as good as none.
--
-- Usernames: the email's local part, lower-cased ("C": ASCII only, the same on every server), cleaned to [a-z0-9_.-], cut
-- to 32 characters; or, made alike, the username that an application's own table of users gives. The first choice is that
-- name; the second adds the last eight hex digits of the user id; the third is all 32 of them. No chance and no loop: the
-- thousandth ada@… costs what the second did. 'user' replaces what leaves nothing usable: no address, fewer than three
-- characters, or a reserved name, which would pass for somebody in charge. A name is reserved too if it only looks like one
-- of the list: without _ . - and with look-alikes read as one letter (adm1n, -admin-, supp0rt). No profile is called just 'user'.
--
-- Names lose control characters and what hides or turns text around, as their CHECK demands; a line end becomes a space.
-- An address of more than 320 characters is not copied. The phone is a contact number: that of the user row, else the
-- metadata's.
--
-- Nothing but simple expressions, which plpgsql evaluates without starting the executor: a call, or a query, per value
-- costs more than the insert that it prepares.
create or replace function profiles_internal.profile_values(p_users jsonb[])
returns table (
  user_id uuid,
  first_username text,
  second_username text,
  third_username text,
  email text,
  phone text,
  email_verified boolean,
  is_anonymous boolean,
  last_login timestamptz,
  display_name text,
  first_name text,
  last_name text,
  avatar_url text,
  timezone text,
  language text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $profile_values$
declare
  blanks constant text := E' \t\r\n';
  reserved constant text[] := array[
    'abuse', 'admin', 'administrator', 'anon', 'anonymous', 'api', 'authenticated', 'authenticator', 'billing', 'contact',
    'deleted', 'help', 'helpdesk', 'hostmaster', 'info', 'mail', 'mailerdaemon', 'me', 'moderator', 'news', 'nobody',
    'noreply', 'null', 'official', 'operator', 'owner', 'pgbouncer', 'postgres', 'postgresql', 'postmaster', 'privacy',
    'root', 'security', 'service', 'servicerole', 'staff', 'supabase', 'supabaseadmin', 'superadmin', 'superuser',
    'support', 'sysadmin', 'system', 'team', 'undefined', 'user', 'webmaster', 'www'
  ];
  default_timezone constant text := profiles_internal.default_timezone();
  default_language constant text := profiles_internal.default_language();
  user_row jsonb;
  metadata jsonb;
  base text;
begin
  foreach user_row in array p_users loop
    user_id := (user_row ->> 'id')::uuid;
    email := case when length(user_row ->> 'email') between 1 and 320 then user_row ->> 'email' end;
    phone := case when length(user_row ->> 'phone') between 1 and 40 then user_row ->> 'phone' end;
    email_verified := email is not null and user_row ->> 'email_confirmed_at' is not null;
    is_anonymous := coalesce((user_row ->> 'is_anonymous')::boolean, false);
    last_login := (user_row ->> 'last_sign_in_at')::timestamptz;

    base := coalesce(user_row -> 'raw_app_meta_data' ->> 'identity_username', split_part(email, '@', 1));
    base := left(regexp_replace(lower(left(base, 1000) collate "C"), '[^a-z0-9_.-]', '', 'g'), 32);
    if base is null or length(base) < 3
      or translate(base, '0345789_.-', 'oeastbg') = any (reserved)
      -- The digit 1 may be an i or an l: where a name holds one, both are written as i.
      or position('1' in base) > 0 and translate(base, 'l10345789_.-', 'iioeastbg')
        = any (string_to_array(translate(array_to_string(reserved, ' '), 'l', 'i'), ' '))
    then
      base := 'user';
    end if;
    third_username := replace(user_row ->> 'id', '-', '');
    second_username := left(base, 23) || '_' || right(third_username, 8);
    first_username := case when base = 'user' then second_username else base end;

    display_name := null;
    first_name := null;
    last_name := null;
    avatar_url := null;
    timezone := default_timezone;
    language := null;
    metadata := user_row -> 'raw_user_meta_data';
    if jsonb_typeof(metadata) = 'object' and metadata <> '{}' then
      if jsonb_typeof(metadata -> 'full_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'full_name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'name', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'preferred_username') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'preferred_username', blanks), 200), blanks), '');
      end if;
      if display_name is null and jsonb_typeof(metadata -> 'user_name') = 'string' then
        display_name := nullif(btrim(left(btrim(metadata ->> 'user_name', blanks), 200), blanks), '');
      end if;
      if metadata ?| '{first_name,given_name,last_name,family_name}' then
        if jsonb_typeof(metadata -> 'first_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'first_name', blanks), 200), blanks), '');
        end if;
        if first_name is null and jsonb_typeof(metadata -> 'given_name') = 'string' then
          first_name := nullif(btrim(left(btrim(metadata ->> 'given_name', blanks), 200), blanks), '');
        end if;
        if jsonb_typeof(metadata -> 'last_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'last_name', blanks), 200), blanks), '');
        end if;
        if last_name is null and jsonb_typeof(metadata -> 'family_name') = 'string' then
          last_name := nullif(btrim(left(btrim(metadata ->> 'family_name', blanks), 200), blanks), '');
        end if;
      end if;
      if concat(display_name, first_name, last_name) ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
        display_name := nullif(btrim(regexp_replace(translate(display_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        first_name := nullif(btrim(regexp_replace(translate(first_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
        last_name := nullif(btrim(regexp_replace(translate(last_name, e'\t\n\u000b\f\r\u0085\u2028\u2029', '        '), '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]', '', 'g')), '');
      end if;
      -- A URL is whole or worthless, so the cut is one character behind the longest good one.
      if jsonb_typeof(metadata -> 'avatar_url') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'avatar_url', blanks), 2049), blanks), '');
      end if;
      if avatar_url is null and jsonb_typeof(metadata -> 'picture') = 'string' then
        avatar_url := nullif(btrim(left(btrim(metadata ->> 'picture', blanks), 2049), blanks), '');
      end if;
      if length(avatar_url) > 2048 or avatar_url !~ '^(https?://\S|/[^/\\\s])\S*$' then
        avatar_url := null;
      end if;
      if phone is null and jsonb_typeof(metadata -> 'phone') = 'string' then
        phone := nullif(btrim(left(btrim(metadata ->> 'phone', blanks), 41), blanks), '');
        if length(phone) > 40 or phone ~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]' then
          phone := null;
        end if;
      end if;
      if metadata ?| '{language,locale,timezone}' then
        if jsonb_typeof(metadata -> 'language') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'language', blanks), 36), blanks), '');
        end if;
        if language is null and jsonb_typeof(metadata -> 'locale') = 'string' then
          language := nullif(btrim(left(btrim(metadata ->> 'locale', blanks), 36), blanks), '');
        end if;
        language := replace(language, '_', '-');
        if jsonb_typeof(metadata -> 'timezone') = 'string' then
          timezone := coalesce(
            (select z.name from profiles_internal.timezones as z where z.name = metadata ->> 'timezone'), default_timezone
          );
        end if;
      end if;
    end if;
    if language is null or length(language) > 35 or language !~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' then
      language := default_language;
    end if;
    return next;
  end loop;
end
$profile_values$;

revoke all on function profiles_internal.profile_values(jsonb[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- The rows of these users, as create_profiles takes them; deleted users are left out.
-- For a caller that makes profiles of users who were there before. It locks each row as the profile's foreign key will, so
-- that what it returns stays true until the caller commits: an erasure, and a change that finds no profile and makes none,
-- wait for the commit, and then see the profile (on_auth_user_updated).
create or replace function profiles_internal.living_users(p_user_ids uuid[])
returns jsonb[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $living_users$
begin
  if not has_any_column_privilege('auth.users', 'update') then
    -- A row lock needs the right to UPDATE. Without it the next sign-in, or backfill, makes up for what is missed here.
    null;
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- One snapshot for all statements: a row that has changed since is an error (40001), not an old row.
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for share;
  else
    perform from auth.users as u where u.id = any (p_user_ids) order by u.id for key share;
  end if;
  -- A statement of its own, which sees what the lock had to wait for. Offset 0: made into JSON once, not again to look at deleted_at.
  return array(
    select r.user_row
    from (select u.id, to_jsonb(u) as user_row from auth.users as u where u.id = any (p_user_ids) offset 0) as r
    where r.user_row ->> 'deleted_at' is null
    order by r.id
  );
end
$living_users$;

revoke all on function profiles_internal.living_users(uuid[]) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Which roles of the application's own have rights on user_profiles, and which these are on a view of it whose columns bear
-- their old names (p_columns, as an adopted table keeps them). The owner of the table has all. The roles of the API are
-- left out: what they may do is ours to say.
create or replace function profiles_internal.old_name_rights(p_columns jsonb)
returns table (who text, rights text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $old_name_rights$
  with given as (
    select t.relowner as grantee, k.kind
    from pg_class as t cross join unnest(array['select', 'insert', 'update', 'delete']) as k (kind)
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, lower(e.privilege_type)
    from pg_class as t cross join lateral aclexplode(t.relacl) as e
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, format('%s (%I)', lower(e.privilege_type), c.value ->> 'name')
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as e
    join jsonb_array_elements(p_columns) as c on c.value ->> 'now' = a.attname
    where a.attrelid = to_regclass('public.user_profiles') and not a.attisdropped
  )
  select quote_ident(r.rolname), string_agg(g.kind, ', ' order by g.kind)
  from given as g
  join pg_roles as r on r.oid = g.grantee
  where g.kind ~ '^(select|insert|update|delete)' and r.rolname not in ('anon', 'authenticated', 'service_role', current_user)
  group by r.rolname
$old_name_rights$;

revoke all on function profiles_internal.old_name_rights(jsonb) from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- profiles_internal is closed. One can enter it only to reach the functions that the callable functions of public
-- lead to; each of those carries its own grant, in its own file.
revoke all on schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema profiles_internal from public, anon, authenticated, service_role;

grant usage on schema profiles_internal to anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Where user_profiles was found under another name: a view of that name, with the columns of that table under their old
-- names, so that statements written for it go on working. It is updatable by itself, INSERT … ON CONFLICT included, and
-- runs with the rights of whoever asks. Returns its name; null where none is needed.
-- A table whose user_id was an outside id gets a view of another kind, from install_old_profiles.
-- Runs in the transaction that renames the table; at downgrade the view goes before the table gets its name back.
create or replace function profiles_internal.install_profiles_view()
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_profiles_view$
declare
  relation constant regclass := to_regclass('public.user_profiles');
  old_name text;
  found jsonb;
  shown text;
  given record;
begin
  select a.data ->> 'found_as', a.data -> 'columns' into old_name, found
  from profiles_internal.adopted as a
  where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  order by a.id desc limit 1;
  if relation is null or old_name is null or old_name = 'public.user_profiles' or found @> '[{"name": "user_id", "now": "external_id"}]' then
    return null;
  end if;

  select string_agg(format('p.%I as %I', a.attname, c.value ->> 'name'), ', ' order by (c.value ->> 'position')::integer)
  into shown
  from jsonb_array_elements(found) as c
  join pg_attribute as a on a.attrelid = relation and a.attname = c.value ->> 'now' and a.attnum > 0 and not a.attisdropped;

  execute format('create view %s with (security_invoker = true) as select %s from public.user_profiles as p', old_name, shown);
  execute format('comment on view %s is %L', old_name, 'profiles-schema: user_profiles under its old name');
  execute format('revoke all on table %s from public, anon, authenticated, service_role', old_name);
  -- The view runs with the rights of whoever asks, so those on the table decide.
  execute format('grant select, insert, update on table %s to authenticated', old_name);
  execute format('grant select, insert, update, delete on table %s to service_role', old_name);
  if exists (
    select from profiles_internal.adopted as a
    where a.object_type = 'rights' and a.object_name = 'public.user_profiles' and a.data -> 'rights' @> '[{"role": "anon"}]'
  ) then
    execute format('grant select, insert, update on table %s to anon', old_name);
  end if;
  for given in select r.* from profiles_internal.old_name_rights(found) as r loop
    execute format('grant %s on table %s to %s', given.rights, old_name, given.who);
  end loop;
  insert into profiles_internal.adopted (revision, object_type, object_name, definition)
  values ('0003_create_user_profiles', 'view', old_name, format('drop view if exists %s', old_name));
  return old_name;
end
$install_profiles_view$;

revoke all on function profiles_internal.install_profiles_view() from public, anon, authenticated, service_role;
"""
    )
    op.execute(
        r"""
-- Before tables change: sign-up triggers of the application that write them are emptied, while nobody signs up.
select profiles_internal.adopt('0002_create_foundation');
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
select profiles_internal.put_back_adopted('0002_create_foundation');
drop function profiles_internal.install_profiles_view();
drop function profiles_internal.old_name_rights(jsonb);
drop function profiles_internal.living_users(uuid[]);
drop function profiles_internal.profile_values(jsonb[]);
drop function profiles_internal.default_timezone();
drop function profiles_internal.default_language();
drop table profiles_internal.health_samples;
drop table profiles_internal.migration_log;
drop table profiles_internal.kept_json;
drop table profiles_internal.legacy_columns;
drop table profiles_internal.quarantine;
drop table profiles_internal.adopted;
drop table profiles_internal.jobs;
drop table profiles_internal.timezones;
drop table profiles_internal.settings;
"""
    )
    op.execute(
        r"""
do $keep_data$
declare
  row_count bigint;
begin
  if coalesce(obj_description(to_regclass('auth.users'), 'pg_class'), '') like 'profiles-schema:%' then
    lock table auth.users in access exclusive mode;
    select count(*) into row_count from auth.users;
    if row_count > 0 and coalesce(current_setting('profiles_schema.allow_data_loss', true), '') <> 'yes' then
      raise exception 'this downgrade would drop tables that hold rows: auth.users (% rows)', row_count
        using hint = 'Save them first, then run it again with: -x allow-data-loss=yes';
    end if;
    drop table auth.users;
    drop function auth.uid(), auth.role(), auth.email(), auth.jwt();
    if coalesce(obj_description(to_regnamespace('auth'), 'pg_namespace'), '') like 'profiles-schema:%' then
      drop schema auth;
    end if;
  end if;
end
$keep_data$;
"""
    )
    op.execute(
        r"""
drop function profiles_internal.put_back_adopted(text);
drop function profiles_internal.recount_adopted(text);
drop function profiles_internal.fit_usernames(text);
drop function profiles_internal.require_values(regclass, text);
drop function profiles_internal.restore_values(text, text, text);
drop function profiles_internal.narrowed(text, text, text);
drop function profiles_internal.bring_back_rows(text, text[]);
drop function profiles_internal.adopt(text);
drop function profiles_internal.try_sign_ups(text);
drop function profiles_internal.adoption_plan(text);
drop function profiles_internal.adoption_of_objects();
drop function profiles_internal.grant_kept_rights();
drop function profiles_internal.adoption_of_policies(text, regclass);
drop function profiles_internal.adoption_of_table(text, regclass);
drop function profiles_internal.adoption_rights(jsonb);
drop function profiles_internal.adoption_fields(jsonb, jsonb);
drop function profiles_internal.adoption_owner_steps(jsonb);
drop function profiles_internal.install_carry_user_id(text);
drop function profiles_internal.carry_user_id();
drop function profiles_internal.adoption_keys(jsonb, jsonb);
drop function profiles_internal.adoption_frame(jsonb, jsonb);
drop function profiles_internal.adoption_contacts(jsonb);
drop function profiles_internal.adoption_policies(text, regclass);
drop function profiles_internal.failing_objects(oid[]);
drop function profiles_internal.table_readers(regclass);
drop function profiles_internal.our_public_functions();
drop function profiles_internal.adoption_quarantine(jsonb, jsonb);
drop function profiles_internal.required_columns(jsonb);
drop function profiles_internal.adoption_pace(jsonb, jsonb);
drop function profiles_internal.adoption_defaults(jsonb);
drop function profiles_internal.adoption_counts(jsonb);
drop function profiles_internal.adoption_stops(jsonb);
drop function profiles_internal.table_to_adopt(text);
drop function profiles_internal.adoption_context(text, regclass);
drop function profiles_internal.adoption_owners(regclass, jsonb, boolean);
drop function profiles_internal.adopting_revisions();
drop function profiles_internal.adoption_columns(text, regclass);
drop function profiles_internal.trigger_text(oid, text);
drop function profiles_internal.policy_text(oid, text, boolean);
drop function profiles_internal.function_text(oid);
drop function profiles_internal.acts_beside_ours(oid);
drop function profiles_internal.written_tables(oid, boolean);
drop function profiles_internal.reached_functions(oid);
drop function profiles_internal.column_readers(regclass, text);
drop function profiles_internal.kept_default(text, text, text, text);
drop function profiles_internal.adoption_rules();
drop function profiles_internal.answer(text);
drop function profiles_internal.wanted_shape();
"""
    )
