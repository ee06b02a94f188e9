#!/usr/bin/env bash
# `make run PRESET=smoke` on a machine that is not this one: Debian stable with git, make and python3-venv, nothing else.
#   sudo benchmarks/fresh_machine.sh [SUITE]           Linux as root, with debootstrap and git; 10 GB in TMPDIR
# The last commit is cloned there, and a user without rights types the command. What pip must know to reach its indexes
# here (pip.conf, PIP_*, certificates, and the folders in BIND, separated by spaces) is lent for the time of the run.
# MIRROR is Debian's mirror, by default the one that apt uses here. Everything is removed at the end.
set -euo pipefail
suite=${1:-stable}
project=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$')}
if [ "${FRESH_MOUNTS:-}" != own ]; then # what is mounted below ends with this process
  FRESH_MOUNTS=own exec unshare --mount --propagation private -- bash "$0" "$@"
fi
work=$(mktemp -d)
root=$work/root
# Nothing is mounted yet where debootstrap fails, and umount's word about that is no fault.
trap 'umount --recursive "$root" 2> /dev/null || true; rm -rf --one-file-system "$work"' EXIT

debootstrap --variant=minbase --include=git,make,python3-venv,ca-certificates "$suite" "$root" "$mirror" > "$work/log" ||
  { tail -n 5 "$work/log"; exit 1; }
mount --bind "$root" "$root"
mount --types proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for lent in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/xdg/pip; do
  [ ! -e "$lent" ] || { mkdir -p "$root$(dirname "$lent")"; rm -rf "$root$lent"; cp -rL "$lent" "$root$lent"; }
done
for folder in ${BIND:-}; do
  mkdir -p "$root$folder"
  mount --bind --options ro "$folder" "$root$folder"
done
chroot "$root" useradd --create-home --home-dir /srv/ming ming
git clone --quiet --no-local "$project" "$root/srv/ming/tuwen"
chroot "$root" chown --recursive ming:ming /srv/ming/tuwen
for tool in cc gcc g++ clang rustc cargo; do
  ! chroot "$root" which "$tool" || { echo "error: $tool is there"; exit 1; }
done
mapfile -t variables < <(env | grep -E '^(PIP_|https?_proxy=|HTTPS?_PROXY=|no_proxy=|NO_PROXY=)')

as_user() { # a command in the checkout, with a user's own small environment
  chroot "$root" setpriv --reuid ming --regid ming --init-groups \
    env -i HOME=/srv/ming PATH=/usr/bin:/bin LANG=C.UTF-8 "${variables[@]}" bash -c "cd ~/tuwen && $1"
}
started=$SECONDS
as_user 'make .venv/ready' > "$work/install" 2>&1 || { tail -n 30 "$work/install"; exit 1; }
installed=$SECONDS
as_user 'make run PRESET=smoke' | tee "$work/run"
ended=$SECONDS
grep --quiet 'text → image  R@5' "$work/run"
as_user '.venv/bin/python -m pip check'
as_user '. /etc/os-release; echo "$PRETTY_NAME, $(.venv/bin/python --version), .venv $(du -sh .venv | cut -f 1)"'
echo "installed in $((installed - started)) s, ran in $((ended - installed)) s"
