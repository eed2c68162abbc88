"""Damages to what is ours, each with a word that a finding of it must hold; and an application's own objects beside ours."""

from collections import Counter

UID = "(select auth.uid()) = user_id"

# A damage, and a word by which the finding must name what was damaged.
DAMAGES = {
    "function body": (
        ("create or replace function public.get_user_profile_stats() returns jsonb language sql stable"
        " set search_path = pg_catalog, pg_temp as 'select null::jsonb'"),
        "public.get_user_profile_stats",
    ),
    "function missing": ("drop function public.gen_available_username(text)", "public.gen_available_username"),
    "function result": (
        ("drop function public.gen_available_username(text);"
        " create function public.gen_available_username(p_email text) returns varchar language sql as 'select p_email'"),
        "public.gen_available_username",
    ),
    "function parameters": (
        ("drop function public.gen_available_username(text);"
        " create function public.gen_available_username(address text) returns text language sql as 'select address'"),
        "public.gen_available_username",
    ),
    "function search_path": (
        "alter function public.get_my_profile_v2() set search_path = public",
        "public.get_my_profile_v2",
    ),
    "function security definer": (
        "alter function public.get_my_profile_v2() security definer",
        "public.get_my_profile_v2",
    ),
    "function open to PUBLIC": (
        "grant execute on function public.get_user_profile_stats() to public",
        "public.get_user_profile_stats",
    ),
    "function open to anon": (
        "grant execute on function profiles_internal.erase_profile(uuid) to anon",
        "profiles_internal.erase_profile",
    ),
    "function in our schema that is not declared": (
        "create function profiles_internal.back_door() returns text language sql as $$ select 'a::b :c [[:space:]]' $$",
        "profiles_internal.back_door()",
    ),
    "trigger missing": ("drop trigger guard_export_status on public.export_history", "guard_export_status"),
    "trigger disabled": ("alter table public.export_history disable trigger guard_export_status", "guard_export_status"),
    "trigger redefined": (
        ("create or replace trigger keep_updated_at after insert on public.user_progress"
        " for each row execute function profiles_internal.keep_updated_at()"),
        "keep_updated_at",
    ),
    "sign-up trigger missing": ("drop trigger profiles_on_auth_user_created on auth.users", "on_auth_user_created"),
    "sign-up trigger disabled": (
        "alter table auth.users disable trigger profiles_on_auth_user_updated",
        "on_auth_user_updated",
    ),
    "policy missing": ('drop policy "Owners can read their own profile" on public.user_profiles', 'The policy "Owners can read their own profile" of public.user_profiles'),
    "policy using": (
        'alter policy "Owners can read their own profile" on public.user_profiles using (true)',
        'The policy "Owners can read their own profile" of public.user_profiles',
    ),
    "policy roles": (
        'alter policy "Owners can read their own API keys" on public.user_api_keys to anon, authenticated',
        'The policy "Owners can read their own API keys"',
    ),
    "policy restrictive": (
        ('drop policy "Owners can read their own profile" on public.user_profiles;'
        ' create policy "Owners can read their own profile" on public.user_profiles as restrictive for select to authenticated'
        f" using ({UID})"),
        'The policy "Owners can read their own profile" of public.user_profiles',
    ),
    "policy in our words that is not declared": (
        'create policy "Owners can delete everything" on public.user_profiles for delete using (true)',
        'The policy "Owners can delete everything"',
    ),
    "table grant": ("grant delete on public.user_profiles to authenticated", "authenticated has other rights on public.user_profiles than"),
    "table grant to PUBLIC": ("grant select on public.user_api_keys to public", "PUBLIC has rights on public.user_api_keys"),
    "table grant missing": ("revoke insert on public.export_history from service_role", "service_role has other rights on public.export_history"),
    "column grant": ("grant update (role) on public.user_profiles to authenticated", "authenticated has rights on the column role of public.user_profiles"),
    "grant in our schema": ("grant select on profiles_internal.jobs to anon", "anon has rights on profiles_internal.jobs"),
    "grant on our schema": ("grant create on schema profiles_internal to authenticated", "authenticated has other rights on schema profiles_internal"),
    "row security off": ("alter table public.user_api_keys disable row level security", "Row level security is off on public.user_api_keys"),
    "index predicate": (
        ("drop index public.idx_user_profiles_last_analyzed; create index idx_user_profiles_last_analyzed"
        " on public.user_profiles (last_analyzed_at) where is_active"),
        "idx_user_profiles_last_analyzed",
    ),
    "index method": (
        ("drop index public.idx_user_profiles_last_analyzed; create index idx_user_profiles_last_analyzed"
        " on public.user_profiles using brin (last_analyzed_at)"),
        "idx_user_profiles_last_analyzed",
    ),
    "index operator class": (
        ("drop index public.idx_user_profiles_preferences_gin; create index idx_user_profiles_preferences_gin"
        " on public.user_profiles using gin (preferences)"),
        "idx_user_profiles_preferences_gin",
    ),
    "index columns": (
        ("drop index public.idx_user_profiles_last_analyzed;"
        " create index idx_user_profiles_last_analyzed on public.user_profiles (last_photo_analyzed_at)"),
        "idx_user_profiles_last_analyzed",
    ),
    "index missing": ("drop index public.idx_user_profiles_updated_at", "idx_user_profiles_updated_at"),
    "CHECK text": (
        ("alter table public.user_profiles drop constraint ck_user_profiles_display_name_up_to_200_characters,"
        " add constraint ck_user_profiles_display_name_up_to_200_characters check (char_length(display_name) <= 500)"),
        "ck_user_profiles_display_name_up_to_200_characters",
    ),
    "CHECK not validated": (
        ("alter table public.user_profiles drop constraint ck_user_profiles_display_name_up_to_200_characters,"
        " add constraint ck_user_profiles_display_name_up_to_200_characters check (char_length(display_name) <= 200) not valid"),
        "ck_user_profiles_display_name_up_to_200_characters",
    ),
    "CHECK missing": (
        "alter table public.user_profiles drop constraint ck_user_profiles_display_name_up_to_200_characters",
        "ck_user_profiles_display_name_up_to_200_characters",
    ),
    "primary key missing": (
        "alter table public.user_progress drop constraint pk_user_progress",
        "pk_user_progress",
    ),
    "UNIQUE missing": (
        "alter table public.user_profiles drop constraint uq_user_profiles_referral_code",
        "uq_user_profiles_referral_code",
    ),
    "foreign key action": (
        ("alter table public.user_api_keys drop constraint fk_user_api_keys_user_id_users,"
        " add constraint fk_user_api_keys_user_id_users foreign key (user_id) references auth.users (id)"),
        "fk_user_api_keys_user_id_users",
    ),
    "column type": ("alter table public.user_profiles alter column referral_code type varchar(90)", "The column referral_code of"),
    "column default": (
        "alter table public.user_profiles alter column language set default 'de'",
        "The column language of",
    ),
    "column missing": ("alter table public.user_profiles drop column email_verified", "email_verified of public.user_profiles"),
    "column comment": ("comment on column public.user_profiles.email is 'unique'", "The comment on public.user_profiles.email is"),
    "table comment": ("comment on table public.user_profiles is 'mine'", "The comment on public.user_profiles is"),
}  # fmt: skip
APPLICATIONS_OWN = """
create table public.orders (id bigint primary key, user_id uuid references public.user_profiles (user_id));
create schema shop;
create table shop.user_profiles (id integer primary key);
create view public.names as select username from public.user_profiles;
create function public.orders_of(p_user uuid) returns bigint language sql as 'select count(*) from public.orders where user_id = p_user';
create function public.on_order() returns trigger language plpgsql as 'begin return new; end';
alter table public.user_profiles add column "Shoe size" integer check ("Shoe size" > 0);
grant select ("Shoe size"), update ("Shoe size") on public.user_profiles to authenticated;
create index idx_shoe_size on public.user_profiles ("Shoe size");
alter table public.user_profiles add constraint uq_shoe_size unique ("Shoe size");
create trigger on_profile before update on public.user_profiles for each row execute function public.on_order();
create trigger keep_updated_at before update on public.orders for each row execute function public.on_order();
create policy "Support can read profiles" on public.user_profiles for select to authenticated using (false);
grant select on public.user_profiles to current_user;
create role application_reader;
grant select on public.user_profiles to application_reader;
"""


def compatible_damages():
    """The damages in groups: in each, at most one to the same thing."""
    groups = {}
    seen = Counter()
    for damage, (_, name) in DAMAGES.items():
        groups.setdefault(seen[name], []).append(damage)
        seen[name] += 1
    return list(groups.values())
