#!/bin/bash
# An engine of its own where there is none: `engine.sh FOLDER` prints the variables that reach it; it ends with
# `kill $(cat FOLDER/pid)`. As root on Debian. No registry is asked: Docker comes from Debian's next release, unpacked
# beside the system, and images are made of Debian's packages and of this machine's Python. FOLDER may be kept: a
# second start takes 2 s. It ends with 3 and the reason where this machine cannot have an engine, with another code
# where something fails in one that runs.
set -euo pipefail
cannot="no engine on this machine"
root_made=
trap 'code=$?; kill $root_made 2> /dev/null || true; [ "$code" = 0 ] || [ -z "$cannot" ] || { echo "$cannot" >&2; exit 3; }' EXIT
[ "$(id -u)" = 0 ] || { cannot="an engine needs root"; exit 3; }
grep -qsx 'ID=debian' /etc/os-release || { cannot="an engine of the tests' own is made of Debian's packages"; exit 3; }
command -v python3.11 > /dev/null || { cannot="the image's Python is 3.11, and here is none"; exit 3; }
mkdir -p "$1"
here=$(realpath "$(dirname "$0")") folder=$(realpath "$1")
# grep ends with 1 where no file names a mirror.
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2> /dev/null | head -1 | tr -d ' ') || true
mirror=${mirror:-http://deb.debian.org/debian}
tools=$folder/tools root=$folder/root
export PATH=$tools/usr/bin:$tools/usr/sbin:$PATH DOCKER_CONFIG=$folder/config DOCKER_HOST=unix://$folder/sock

install_tools() {
  if ! dpkg -s debootstrap runc iptables > /dev/null 2>&1; then
    apt-get update -q > /dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends debootstrap runc iptables > /dev/null
  fi
}

unpack() {
  mkdir -p "$folder"/apt/etc/apt/{apt.conf.d,preferences.d,sources.list.d} "$folder"/apt/var/{lib/apt/lists,cache/apt/archives}/partial
  mkdir -p "$folder/apt/var/lib/dpkg" "$tools" "$DOCKER_CONFIG"
  touch "$folder/apt/var/lib/dpkg/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$folder/apt/etc/apt/sources.list"
  local options=(-q -o "Dir=$folder/apt" -o "Dir::State::status=$folder/apt/var/lib/dpkg/status")
  apt-get "${options[@]}" update > /dev/null
  (
    cd "$tools"
    apt-get "${options[@]}" download docker.io docker-cli containerd docker-buildx docker-compose tini > /dev/null
    for package in *.deb; do
      dpkg -x "$package" .
      rm "$package"
    done
  )
  ln -sf tini-static "$tools/usr/bin/docker-init"
  ln -sfn "$tools/usr/libexec/docker/cli-plugins" "$DOCKER_CONFIG/cli-plugins"
}

# What the image python:…-slim holds, by this machine's release and Python.
make_root() {
  local python release
  python=$(python3.11 -c 'import sys; print(sys.base_prefix)')
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata,libffi8,libssl3,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g,libuuid1 \
    "$release" "$root.new" "$mirror" > "$folder/debootstrap.log"
  cp -a "$python/bin/python3.11" "$root.new/usr/local/bin/"
  # A Python that was built without a shared library has none to copy.
  cp -a "$python"/lib/libpython3* "$root.new/usr/local/lib/" 2> /dev/null || true
  tar -C "$python/lib" --exclude=site-packages --exclude=__pycache__ --exclude=test --exclude='config-*' -c python3.11 \
    | tar -C "$root.new/usr/local/lib" -x
  mkdir -p "$root.new/usr/local/lib/python3.11/site-packages"
  for name in python python3; do ln -sf python3.11 "$root.new/usr/local/bin/$name"; done
  cp /etc/ssl/certs/ca-certificates.crt "$root.new/etc/ssl/certs/"
  rm -rf "$root.new"/var/cache/apt/* "$root.new"/var/lib/apt/lists/* "$root.new"/usr/share/{doc,man,locale}/* "$root.new/etc/apt/sources.list"
  printf 'Types: deb\nURIs: http://deb.debian.org/debian\nSuites: %s\nComponents: main\n' "$release" \
    > "$root.new/etc/apt/sources.list.d/debian.sources"
  chroot "$root.new" ldconfig
  mv "$root.new" "$root"
}

start() {
  docker info > /dev/null 2>&1 && return
  rm -f "$folder/pid"
  # no firewall rule and no bridge of its own: networks of Compose are enough, and the host stays as it is
  setsid dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
    --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --bridge=none > "$folder/dockerd.log" 2>&1 < /dev/null &
  for _ in $(seq 60); do
    docker info > /dev/null 2>&1 && return
    sleep 1
  done
  tail -n 5 "$folder/dockerd.log" >&2
  exit 1
}

# A daemon may run where no container does: without the right to mount, to make cgroups or a network.
try_container() {
  docker image inspect stand-in/python > /dev/null 2>&1 || tar -C "$root" -c . | docker import -c 'CMD ["python3"]' - stand-in/python > /dev/null
  docker network inspect try > /dev/null 2>&1 || docker network create try > /dev/null
  docker run --rm --init --network try --memory 64m --publish 127.0.0.1::1 stand-in/python true > /dev/null 2> "$folder/try.log" \
    || { cat "$folder/try.log" >&2; exit 3; }
  docker network rm try > /dev/null
}

make_images() {
  local builds=()
  for target in postgres rclone; do
    docker image inspect "stand-in/$target" > /dev/null 2>&1 && continue
    docker buildx build --quiet --network host \
      --build-context "programs=$(dirname "$(command -v rclone)")" --build-arg "DEBIAN_MIRROR=${mirror%/debian*}" \
      --file "$here/stand-ins.Dockerfile" --target "$target" --tag "stand-in/$target" "$here" > /dev/null &
    builds+=($!)
  done
  for build in "${builds[@]}"; do wait "$build"; done
}

cannot="Debian's packages of an engine cannot be fetched"
install_tools
# Both mostly wait for the mirror.
[ -d "$root" ] || make_root & root_made=$!
[ -e "$DOCKER_CONFIG/cli-plugins" ] || unpack
cannot="debootstrap makes no root file system here"
wait "$root_made"
root_made=
cannot="no Docker daemon starts here"
start
cannot="a Docker daemon starts here, but no container"
try_container
cannot=
make_images
for name in PATH DOCKER_CONFIG DOCKER_HOST; do echo "$name=${!name}"; done
