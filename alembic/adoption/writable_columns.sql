-- The columns of one table that our rights let users write, by UPDATE or by INSERT (schema/sql/policies).
create or replace function profiles_internal.writable_columns(p_table text, p_right text)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $writable_columns$
  select case p_right || ' ' || p_table
    when 'update user_profiles' then array[
      'username', 'display_name', 'first_name', 'last_name', 'phone', 'bio', 'company_name', 'target_audience',
      'business_context', 'master_system_prompt', 'avatar_emoji', 'profile_picture_url', 'logo_url',
      'profile_visibility', 'key_metrics', 'preferences', 'notification_settings', 'timezone', 'language'
    ]
    when 'insert user_progress' then array['user_id']
    when 'update user_progress' then array['mastered_words_count', 'learning_words_count', 'new_words_count']
    when 'insert user_api_keys' then array[
      'user_id', 'openai_api_key', 'unsplash_api_key', 'anthropic_api_key', 'hints'
    ]
    when 'update user_api_keys' then array['openai_api_key', 'unsplash_api_key', 'anthropic_api_key', 'hints']
    when 'insert export_history' then array['user_id', 'export_type', 'export_format', 'filters']
    when 'update export_history' then array['filters']
    else array[]::text[]
  end
$writable_columns$;

revoke all on function profiles_internal.writable_columns(text, text) from public, anon, authenticated, service_role;
