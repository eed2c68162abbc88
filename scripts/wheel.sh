#!/usr/bin/env bash
# The wheel is what users get: build it, install it without the development set, and upgrade a first database from it.
set -euo pipefail
python=$(realpath -s "${PYTHON:-python3}")
cd "$(dirname "$0")/.."
source=$PWD
# Below /tmp and open to read: as root, the server's account has to get through.
work=$(mktemp -d)
chmod 755 "$work"
export PROFILES_LOCAL_DIR="$work/postgres"
unset DATABASE_URL
finish() {
  [ -x "$work/venv/bin/profiles-schema" ] && "$work/venv/bin/profiles-schema" local stop || true
  rm -rf "$work"
}
trap finish EXIT

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" "$source"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$(ls "$work"/*.whl)[local]"

cd "$work"
venv/bin/profiles-schema --help >/dev/null
venv/bin/python -c 'from profiles_schema import UserProfile; print(UserProfile.__table__.name)'
venv/bin/profiles-schema upgrade --local
venv/bin/profiles-schema health --local
venv/bin/profiles-schema smoke --local | tail -n 1
venv/bin/profiles-schema check --local
echo "the wheel works"
