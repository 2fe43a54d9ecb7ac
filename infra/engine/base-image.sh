#!/usr/bin/env bash
# A base image with Python from Debian's (or Ubuntu's) own packages, without any hub: infra/engine/base-image.sh [NAME]
#
# apt-get fetches the packages of this machine's release and checks their signatures; they are unpacked, no script of theirs
# runs. dpkg's status file lists them, so that a bill of materials finds them. The same packages give the same layer.
set -euo pipefail

name=${1:-flagrelease-base:python}
# bash and coreutils (nohup) are for FlagScale, libnuma1 and util-linux (lscpu) for vLLM.
root_packages="base-files bash busybox-static coreutils libgomp1 libnuma1 libstdc++6 netbase util-linux"
# What packages depend on for their scripts only, or for parts of Python that no server uses.
without='^(<.*>|.*awk|dpkg|tar|install-info|mailcap|mime-support|perl.*|libperl.*|libgdbm.*|readline-common)$'

ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update
python=$(apt-cache depends python3-minimal | awk '/Depends: python3\.[0-9]+-minimal/ {sub("-minimal", "", $2); print $2; exit}')
work=$(mktemp -d "${TMPDIR:-/tmp}/base-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt's own user writes the downloads, and the image's root must be readable for all.
chmod 755 "$work"
mkdir "$work/packages" "$work/root"
chmod 777 "$work/packages"

# shellcheck disable=SC2086
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances "$python" $root_packages | grep -v '^ ' | sort --unique | grep -vE "$without")
# shellcheck disable=SC2086
(cd "$work/packages" && apt-get -qq download $packages)

root=$work/root
mkdir -p "$root"/{dev,etc,proc,root,run,sys,tmp,var/lib/dpkg,var/tmp} "$root"/usr/{bin,lib,lib64,local,sbin}
for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$root/$folder"; done
chmod 1777 "$root/tmp" "$root/var/tmp"
for package in "$work"/packages/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$root" --keep-directory-symlink \
    --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/lintian/*'
  dpkg-deb --field "$package" | sed '1a Status: install ok installed'
  echo
done >"$root/var/lib/dpkg/status"
for command in $("$root/usr/bin/busybox" --list); do
  [ -e "$root/usr/bin/$command" ] || [ -e "$root/usr/sbin/$command" ] || ln -s busybox "$root/usr/bin/$command"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
# Hosts give devices to these two groups, and docker run looks their names up here.
printf '%s\n' root:x:0: video:x:44: render:x:105: >"$root/etc/group"
ln -sf "$python" "$root/usr/bin/python3"
ln -sf python3 "$root/usr/bin/python"
ldconfig -r "$root"
# Without compiled modules every start of Python takes a second longer. Unchecked, because the files' times are set below.
PYTHONHASHSEED=0 chroot "$root" /usr/bin/python3 -m compileall -q -x '/(test|lib2to3|idlelib|turtledemo)/' \
  --invalidation-mode unchecked-hash "/usr/lib/$python"
rm -rf "$root"/var/cache/ldconfig
tar --create --directory "$root" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 . |
  docker import --change 'CMD ["python3"]' \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$name" >/dev/null
docker image inspect --format "$name: {{.Size}} bytes, layer {{index .RootFS.Layers 0}}" "$name"
