-- Who signed up before: three people, with what the auth server knows of them. Loaded before every shape of real/ on a hosted
-- project; also auth.jwt(), which hosted projects have.
create function auth.jwt() returns jsonb language sql stable as $jwt$
  select coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb
$jwt$;
alter function auth.jwt() owner to supabase_auth_admin;
insert into auth.users (id, aud, role, email, phone, email_confirmed_at, raw_app_meta_data, raw_user_meta_data, created_at, updated_at)
values
  ('11111111-1111-4111-8111-111111111111', 'authenticated', 'authenticated', 'ada@example.org', null, '2024-01-01', '{"provider": "email"}',
   '{"full_name": "Ada Lovelace", "avatar_url": "https://example.org/ada.png"}', '2024-01-01', '2024-01-01'),
  ('22222222-2222-4222-8222-222222222222', 'authenticated', 'authenticated', 'bo@example.org', null, '2024-01-02', '{"provider": "email"}',
   '{}', '2024-01-02', '2024-01-02'),
  ('33333333-3333-4333-8333-333333333333', 'authenticated', 'authenticated', 'cyd@example.org', null, null, '{"provider": "google"}',
   '{"name": "Cyd", "picture": "https://example.org/cyd.png"}', '2024-01-03', '2024-01-03');
