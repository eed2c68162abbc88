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
    ('user_profiles', 'check', 'ck_user_profiles_analysis_summary_is_object',
      'CHECK ((analysis_summary @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_appearance_traits_is_object',
      'CHECK ((appearance_traits @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_avatar_emoji_up_to_16_characters_no_markup',
      'CHECK ((avatar_emoji ~ ''^[^\u0001-\u001f&<>]{0,16}$''::text))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_avatar_url_is_a_web_address',
      'CHECK (((avatar_url ~ ''^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)''::text) AND '
        '(char_length(avatar_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_behavioral_metrics_is_object',
      'CHECK ((behavioral_metrics @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_bio_up_to_4000_characters',
      'CHECK ((char_length(bio) <= 4000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_business_context_up_to_20000_characters',
      'CHECK ((char_length(business_context) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_company_name_up_to_200_characters',
      'CHECK ((char_length(company_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_cultural_attributes_is_object',
      'CHECK ((cultural_attributes @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_display_name_up_to_200_characters',
      'CHECK ((char_length(display_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_email_up_to_320_characters',
      'CHECK ((char_length(email) <= 320))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_first_name_up_to_200_characters',
      'CHECK ((char_length(first_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_key_metrics_array_64_kb_32_levels',
      'CHECK (((pg_column_size(key_metrics) <= 131072) AND (key_metrics @> ''[]''::jsonb) AND '
        '(NOT (key_metrics @? ''$.**{33}''::jsonpath)) AND (NOT (key_metrics @? ''strict $.**?((@ >'
        ' 10000000000000000000000000000000000000000 || @ < '
        '-10000000000000000000000000000000000000000) || (@ != 0 && @ > '
        '-0.0000000000000000000000000000000000000001) && @ < '
        '0.0000000000000000000000000000000000000001)''::jsonpath)) AND '
        '(octet_length((key_metrics)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_language_is_a_bcp_47_tag',
      'CHECK (((language ~ ''^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$''::text) AND '
        '(char_length(language) <= 35)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_last_name_up_to_200_characters',
      'CHECK ((char_length(last_name) <= 200))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_login_count_not_negative', 'CHECK ((login_count >= 0))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_logo_url_is_a_web_address',
      'CHECK (((logo_url ~ ''^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)''::text) AND '
        '(char_length(logo_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_master_system_prompt_up_to_20000_characters',
      'CHECK ((char_length(master_system_prompt) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_message_count_not_negative',
      'CHECK ((message_count >= 0))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_metadata_is_object',
      'CHECK ((metadata @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_names_without_hidden_characters',
      'CHECK ((concat(display_name, first_name, last_name, company_name) !~ '
        '''[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]''::text))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_notification_settings_object_64_kb_32_levels',
      'CHECK (((pg_column_size(notification_settings) <= 131072) AND (notification_settings @> '
        '''{}''::jsonb) AND (NOT (notification_settings @? ''$.**{33}''::jsonpath)) AND (NOT '
        '(notification_settings @? ''strict $.**?((@ > 10000000000000000000000000000000000000000 ||'
        ' @ < -10000000000000000000000000000000000000000) || (@ != 0 && @ > '
        '-0.0000000000000000000000000000000000000001) && @ < '
        '0.0000000000000000000000000000000000000001)''::jsonpath)) AND '
        '(octet_length((notification_settings)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_personality_traits_is_object',
      'CHECK ((personality_traits @> ''{}''::jsonb))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_phone_up_to_40_characters',
      'CHECK ((char_length(phone) <= 40))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_preferences_object_64_kb_32_levels',
      'CHECK (((pg_column_size(preferences) <= 131072) AND (preferences @> ''{}''::jsonb) AND '
        '(NOT (preferences @? ''$.**{33}''::jsonpath)) AND (NOT (preferences @? ''strict $.**?((@ >'
        ' 10000000000000000000000000000000000000000 || @ < '
        '-10000000000000000000000000000000000000000) || (@ != 0 && @ > '
        '-0.0000000000000000000000000000000000000001) && @ < '
        '0.0000000000000000000000000000000000000001)''::jsonpath)) AND '
        '(octet_length((preferences)::text) <= 65536)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_profile_picture_url_is_a_web_address',
      'CHECK (((profile_picture_url ~ '
        '''^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)''::text) AND '
        '(char_length(profile_picture_url) <= 2048)))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_profile_visibility_is_public_or_private',
      'CHECK ((profile_visibility = ANY (ARRAY[''public''::text, ''private''::text])))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_target_audience_up_to_20000_characters',
      'CHECK ((char_length(target_audience) <= 20000))', null, null),
    ('user_profiles', 'check', 'ck_user_profiles_username_is_3_to_32_of_a_z_0_9',
      'CHECK ((username ~ ''^[a-z0-9_.-]{3,32}$''::text))', null, null),
    ('user_profiles', 'foreign key', 'fk_user_profiles_user_id_users',
      'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_profiles', 'primary key', 'pk_user_profiles', 'PRIMARY KEY (id)', null, null),
    ('user_profiles', 'unique', 'uq_user_profiles_external_id', 'UNIQUE (external_id)', null, null),
    ('user_profiles', 'unique', 'uq_user_profiles_referral_code', 'UNIQUE (referral_code)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_appearance_gin',
      'CREATE INDEX idx_user_profiles_appearance_gin ON public.user_profiles USING gin '
        '(appearance_traits jsonb_path_ops) WHERE (appearance_traits IS NOT NULL)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_behavioral_gin',
      'CREATE INDEX idx_user_profiles_behavioral_gin ON public.user_profiles USING gin '
        '(behavioral_metrics jsonb_path_ops) WHERE (behavioral_metrics IS NOT NULL)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_last_analyzed',
      'CREATE INDEX idx_user_profiles_last_analyzed ON public.user_profiles USING btree '
        '(last_analyzed_at)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_personality_gin',
      'CREATE INDEX idx_user_profiles_personality_gin ON public.user_profiles USING gin '
        '(personality_traits jsonb_path_ops) WHERE (personality_traits IS NOT NULL)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_preferences_gin',
      'CREATE INDEX idx_user_profiles_preferences_gin ON public.user_profiles USING gin '
        '(preferences jsonb_path_ops)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_updated_at',
      'CREATE INDEX idx_user_profiles_updated_at ON public.user_profiles USING btree (updated_at'
        ' DESC)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_user_id',
      'CREATE UNIQUE INDEX idx_user_profiles_user_id ON public.user_profiles USING btree '
        '(user_id)', null, null),
    ('user_profiles', 'index', 'idx_user_profiles_username_lower',
      'CREATE UNIQUE INDEX idx_user_profiles_username_lower ON public.user_profiles USING btree '
        '(lower(username))', null, null),
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
    ('user_progress', 'check', 'ck_user_progress_learning_words_count_not_negative',
      'CHECK ((learning_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_mastered_words_count_not_negative',
      'CHECK ((mastered_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_new_words_count_not_negative',
      'CHECK ((new_words_count >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_rolled_up_not_negative',
      'CHECK ((LEAST(total_sessions, total_descriptions, total_images, total_questions_answered,'
        ' total_correct_answers, total_vocabulary_learned, total_answer_seconds, '
        'total_time_spent_minutes, average_completion_time_seconds, current_streak_days, '
        'longest_streak_days) >= 0))', null, null),
    ('user_progress', 'check', 'ck_user_progress_total_points_not_negative', 'CHECK ((total_points >= 0))', null, null),
    ('user_progress', 'foreign key', 'fk_user_progress_user_id_users',
      'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_progress', 'primary key', 'pk_user_progress', 'PRIMARY KEY (id)', null, null),
    ('user_progress', 'index', 'idx_user_progress_last_activity',
      'CREATE INDEX idx_user_progress_last_activity ON public.user_progress USING btree '
        '(last_activity_at DESC)', null, null),
    ('user_progress', 'index', 'idx_user_progress_user_id',
      'CREATE UNIQUE INDEX idx_user_progress_user_id ON public.user_progress USING btree '
        '(user_id)', null, null),
    ('user_progress', 'comment', 'user_progress',
      'Totals per user, rolled up from ended sessions by a trigger', null, null),
    ('user_api_keys', 'column', 'id', 'uuid', true, 'gen_random_uuid()'),
    ('user_api_keys', 'column', 'user_id', 'uuid', true, null),
    ('user_api_keys', 'column', 'openai_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'unsplash_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'anthropic_api_key', 'text', false, null),
    ('user_api_keys', 'column', 'last_validated_at', 'timestamp with time zone', false, null),
    ('user_api_keys', 'column', 'is_active', 'boolean', true, 'true'),
    ('user_api_keys', 'column', 'validation', 'jsonb', true, '''{}''::jsonb'),
    ('user_api_keys', 'column', 'hints', 'jsonb', true, '''{}''::jsonb'),
    ('user_api_keys', 'column', 'created_at', 'timestamp with time zone', true, 'now()'),
    ('user_api_keys', 'column', 'updated_at', 'timestamp with time zone', true, 'now()'),
    ('user_api_keys', 'check', 'ck_user_api_keys_anthropic_api_key_is_encrypted',
      'CHECK (((anthropic_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text)'
        ' AND (char_length(anthropic_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_hints_four_characters',
      'CHECK (((NOT (hints @? ''$.**?(@.type() != "object" && (@.type() != "string" || !(@ '
        'like_regex "^[!-~]{4}$")))''::jsonpath)) AND (octet_length((hints)::text) <= 256)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_hints_is_object', 'CHECK ((hints @> ''{}''::jsonb))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_openai_api_key_is_encrypted',
      'CHECK (((openai_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text) '
        'AND (char_length(openai_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_unsplash_api_key_is_encrypted',
      'CHECK (((unsplash_api_key ~ ''^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$''::text) '
        'AND (char_length(unsplash_api_key) <= 4096)))', null, null),
    ('user_api_keys', 'check', 'ck_user_api_keys_validation_is_object',
      'CHECK ((validation @> ''{}''::jsonb))', null, null),
    ('user_api_keys', 'foreign key', 'fk_user_api_keys_user_id_users',
      'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('user_api_keys', 'primary key', 'pk_user_api_keys', 'PRIMARY KEY (id)', null, null),
    ('user_api_keys', 'index', 'idx_user_api_keys_user_id',
      'CREATE UNIQUE INDEX idx_user_api_keys_user_id ON public.user_api_keys USING btree '
        '(user_id)', null, null),
    ('user_api_keys', 'comment', 'user_api_keys',
      'Keys of users at other providers, encrypted before they reach the database', null, null),
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
    ('export_history', 'check', 'ck_export_history_file_size_bytes_not_negative',
      'CHECK ((file_size_bytes >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_filters_object_64_kb_32_levels',
      'CHECK (((pg_column_size(filters) <= 131072) AND (filters @> ''{}''::jsonb) AND (NOT '
        '(filters @? ''$.**{33}''::jsonpath)) AND (NOT (filters @? ''strict $.**?((@ > '
        '10000000000000000000000000000000000000000 || @ < '
        '-10000000000000000000000000000000000000000) || (@ != 0 && @ > '
        '-0.0000000000000000000000000000000000000001) && @ < '
        '0.0000000000000000000000000000000000000001)''::jsonpath)) AND '
        '(octet_length((filters)::text) <= 65536)))', null, null),
    ('export_history', 'check', 'ck_export_history_records_count_not_negative',
      'CHECK ((records_count >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_retry_count_not_negative', 'CHECK ((retry_count >= 0))', null, null),
    ('export_history', 'check', 'ck_export_history_status_is_known',
      'CHECK (((status)::text = ANY (ARRAY[''pending''::text, ''processing''::text, '
        '''completed''::text, ''failed''::text, ''expired''::text])))', null, null),
    ('export_history', 'foreign key', 'fk_export_history_user_id_users',
      'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', null, null),
    ('export_history', 'primary key', 'pk_export_history', 'PRIMARY KEY (id)', null, null),
    ('export_history', 'index', 'idx_export_history_created_at',
      'CREATE INDEX idx_export_history_created_at ON public.export_history USING btree '
        '(created_at DESC)', null, null),
    ('export_history', 'index', 'idx_export_history_expires_at',
      'CREATE INDEX idx_export_history_expires_at ON public.export_history USING btree '
        '(expires_at) WHERE (expires_at IS NOT NULL)', null, null),
    ('export_history', 'index', 'idx_export_history_export_type',
      'CREATE INDEX idx_export_history_export_type ON public.export_history USING btree '
        '(export_type)', null, null),
    ('export_history', 'index', 'idx_export_history_status',
      'CREATE INDEX idx_export_history_status ON public.export_history USING btree (status)', null, null),
    ('export_history', 'index', 'idx_export_history_user_id',
      'CREATE INDEX idx_export_history_user_id ON public.export_history USING btree (user_id, '
        'created_at DESC)', null, null),
    ('export_history', 'comment', 'export_history',
      'Exports that users asked for, from pending to expired', null, null),
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
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_action_is_known',
      'CHECK ((action = ANY (ARRAY[''created''::text, ''updated''::text, ''failed''::text, '
        '''skipped''::text, ''repaired''::text, ''deleted''::text, ''key_set''::text, '
        '''key_deleted''::text, ''key_disabled''::text, ''key_enabled''::text, '
        '''key_read''::text])))', null, null),
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_origin_is_known',
      'CHECK ((origin = ANY (ARRAY[''trigger''::text, ''manual''::text, ''backfill''::text, '
        '''registration''::text, ''sync''::text, ''normalize''::text])))', null, null),
    ('user_profile_audit_logs', 'check', 'ck_user_profile_audit_logs_retry_count_not_negative',
      'CHECK ((retry_count >= 0))', null, null),
    ('user_profile_audit_logs', 'foreign key', 'fk_user_profile_audit_logs_user_id_users',
      'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE SET NULL', null, null),
    ('user_profile_audit_logs', 'primary key', 'pk_user_profile_audit_logs', 'PRIMARY KEY (id)', null, null),
    ('user_profile_audit_logs', 'index', 'idx_user_profile_audit_logs_actor',
      'CREATE INDEX idx_user_profile_audit_logs_actor ON public.user_profile_audit_logs USING '
        'btree (actor) WHERE ((actor IS NOT NULL) AND (actor IS DISTINCT FROM user_id))', null, null),
    ('user_profile_audit_logs', 'index', 'idx_user_profile_audit_logs_failures',
      'CREATE INDEX idx_user_profile_audit_logs_failures ON public.user_profile_audit_logs USING'
        ' btree (created_at DESC) WHERE (action = ANY (ARRAY[''failed''::text, '
        '''skipped''::text]))', null, null),
    ('user_profile_audit_logs', 'index', 'idx_user_profile_audit_logs_user_id',
      'CREATE INDEX idx_user_profile_audit_logs_user_id ON public.user_profile_audit_logs USING '
        'btree (user_id, created_at DESC)', null, null),
    ('user_profile_audit_logs', 'comment', 'user_profile_audit_logs',
      'What happened to profiles: who, by which road, which columns; failures with their '
        'SQLSTATE', null, null)
$wanted_shape$;

revoke all on function profiles_internal.wanted_shape() from public, anon, authenticated, service_role;
