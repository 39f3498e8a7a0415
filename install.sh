#!/bin/sh
# Installs the five commands of this checkout for all users: ./install.sh, as yourself; it asks
# sudo. JBang compiles them as you; root then copies them to PREFIX/lib/knockknock, where they
# belong to root. For the server it makes a system user and a line for rsyslog, and says so.
# ./install.sh --remove takes all of it away again. PREFIX is /usr/local unless you set it.
set -eu
umask 022
export LC_ALL=C.UTF-8 # for a checkout below a directory whose name is not ASCII
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
rsyslog=/etc/rsyslog.d/10-knockknock.conf
commands='knockknock knockknock-proxy knockknock-daemon knockknock-genprofile knockknock-check'

fail() { echo "knockknock: $*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi; }
restart_rsyslog() {
    ! systemctl -q is-active rsyslog 2> /dev/null || as_root systemctl restart rsyslog
}
check_owner() { # of a path and all above it: anyone who may write to one may change what is in it
    path=$(readlink -f "$1")
    while :; do
        [ -z "$(find "$path" -maxdepth 0 ! -user root -o ! -perm -1000 -perm /022)" ] \
            || fail "root cannot trust $1: $path is not root's alone"
        [ "$path" != / ] || return 0
        path=$(dirname "$path")
    done
}

case $prefix in
*[!A-Za-z0-9/._-]* | [!/]*) fail "PREFIX must be an absolute path of letters, digits, . _ and -" ;;
esac
prefix=$(readlink -m "$prefix")
lib=$prefix/lib/knockknock
if [ "${1-}" = --remove ]; then
    [ ! -e "$lib/made-user" ] || as_root userdel knockknock || fail "stop knockknock-daemon first"
    if [ -e $rsyslog ]; then as_root rm $rsyslog; restart_rsyslog; fi
    for command in $commands; do
        as_root rm -f "$prefix/bin/$command" "$prefix/share/man/man8/$command.8"
    done
    [ ! -d "$prefix/share/man/man8" ] \
        || as_root rmdir --ignore-fail-on-non-empty "$prefix/share/man/man8"
    as_root rm -rf "$lib"
    echo "removed. What you made stays: profiles in /etc/knockknock.d and ~/.knockknock, the unit"
    echo "in /etc/systemd/system, and the line for sudo: take that one out with visudo, or whoever"
    echo "can write to $prefix/bin can become root with it"
    exit
fi
[ $# = 0 ] || fail "usage: ./install.sh [--remove]"
command -v jbang > /dev/null || PATH=$PWD/tests:$PATH
jdk=$(readlink -f "$(jbang --quiet jdk home 25+)")
[ -z "$(find "$jdk" ! -user root -o ! -type l -perm /022)" ] \
    || fail "$jdk is not root's alone: install a JDK 25 for all users, and set JAVA_HOME to it"
check_owner "$jdk"

# Compile, and check that the libraries are the ones that were read.
build=$(mktemp -d /tmp/knockknock.XXXXXX)
chmod 711 "$build" # the JVM that is run below is root without root's powers
trap 'rm -rf "$build" 2> /dev/null || as_root rm -rf "$build"' EXIT
trap 'exit 1' HUP INT TERM
sources=
for command in $commands; do
    [ $command = knockknock ] || sources="$sources --sources $command.java"
done
JBANG_CACHE_DIR=$build/cache jbang --quiet export portable --force $sources \
    -O "$build/knockknock/knockknock.jar" knockknock.java
(cd "$build/knockknock/lib" && sha256sum --check --quiet) << END || fail "a library was changed"
f86e30fffd10d2b13b8caa8d4b237a7ee61f2ffccf5b1941de718b765d235bf8  picocli-4.7.7.jar
12d2d3dd82a9ec15e92ec7c7943ee64f6097c6dc12c07e984f1693b77565b9aa  bcprov-jdk18on-1.87.jar
END

# What is used of them becomes one jar, not compressed: picocli, and Bouncy Castle's lightweight
# API. Of the whole of Bouncy Castle the JVM would read a list of 6,229 files at every start, which
# takes a knock 30 ms. The jar goes on the boot class path: the hashes are right, so the JVM need
# not verify classes and signatures at every start, which takes 140 ms.
(
    cd "$build/knockknock/lib"
    "$jdk/bin/jar" xf picocli-4.7.7.jar picocli
    "$jdk/bin/jar" xf bcprov-jdk18on-1.87.jar org/bouncycastle/asn1 org/bouncycastle/crypto \
        org/bouncycastle/math org/bouncycastle/util
    "$jdk/bin/jar" cf0 ../libraries.jar picocli org
)
rm -r "$build/knockknock/lib"

# What the JVM itself has to say goes to stderr.
for command in $commands; do
    {
        sed -n 's,^//RUNTIME_OPTIONS ,,p' lib/Cli.java $command.java
        echo "-Xlog:disable -Xlog:all=error:stderr -Xlog:aot*=off:stderr"
        echo "-Xbootclasspath/a:$lib/libraries.jar -cp $lib/knockknock.jar"
        sed -n 's,^//MAIN ,,p' $command.java
    } > "$build/knockknock/$command.options"
done

# A manual page is what --help says.
mkdir "$build/man"
for command in $commands; do
    help=$("$jdk/bin/java" "-Xbootclasspath/a:$build/knockknock/libraries.jar" \
        -cp "$build/knockknock/knockknock.jar" "$(sed -n 's,^//MAIN ,,p' $command.java)" --help)
    {
        printf '.TH %s 8\n.SH NAME\n%s \\- ' $command $command
        echo "$help" | sed -n '/^[A-Z].*\.$/{p;q;}'
        printf '.SH DESCRIPTION\n.nf\n'
        echo "$help" | sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/"
    } > "$build/man/$command.8"
done

cp launcher.sh "$build/knockknock/"
ln -s "$jdk" "$build/knockknock/jdk"

# Copy.
made_user=$([ ! -e "$lib/made-user" ] || echo yes)
as_root mkdir -p "$prefix/bin" "$prefix/lib"
check_owner "$prefix/bin"
check_owner "$prefix/lib"
as_root rm -rf "$lib"
as_root cp -r "$build/knockknock" "$prefix/lib/"
for command in $commands; do as_root ln -sf "$lib/launcher.sh" "$prefix/bin/$command"; done
as_root mkdir -p "$prefix/share/man/man8"
check_owner "$prefix/share/man/man8"
as_root cp "$build"/man/*.8 "$prefix/share/man/man8/"
echo "installed in $prefix/bin, with manual pages: $commands"

# The JVM records which classes the client loads in a knock (JEP 514), on loopback in a network of
# its own, with a profile that is thrown away. A knock then takes 60 ms less. With -Xint it does not
# record what it compiles: that would take more time than it saves. Without it all works as well.
as_root "$prefix/bin/knockknock-genprofile" --dir "$build/server" --open 1 127.0.0.1 1 \
    > /dev/null
mkdir "$build/.knockknock"
as_root mv "$build/server/profiles/127.0.0.1" "$build/.knockknock/"
only=-all,+net_raw
if as_root unshare --net sh -c 'ip link set lo up && exec "$@"' sh \
    env -i -C / PATH=/usr/bin:/bin LC_ALL=C.UTF-8 \
    setpriv --bounding-set $only --inh-caps $only --ambient-caps $only \
    "$jdk/bin/java" -Xint -Duser.home="$build" -XX:AOTCacheOutput="$lib/knockknock.aot" \
    "@$lib/knockknock.options" -p 1 127.0.0.1 \
    > "$build/log" 2>&1; then
    as_root sed -i "1i -XX:AOTCache=$lib/knockknock.aot" "$lib/knockknock.options"
else
    as_root rm -f "$lib/knockknock.aot"
    echo "without an archive of classes, as it could not be made; each knock takes 60 ms more:"
    sed 's/^/  /' "$build/log"
fi

# A user of the daemon's own: nobody else's processes can then end it.
if ! getent passwd knockknock > /dev/null; then
    as_root useradd --system --user-group --no-create-home --home-dir / \
        --shell /usr/sbin/nologin knockknock
    made_user=yes
    echo "made the system user knockknock, for the daemon"
fi
[ -z "$made_user" ] || as_root touch "$lib/made-user"

# The daemon reads the kernel's messages from /dev/kmsg, so they need not fill the disk as well.
if as_root grep -s '^ *log *[=:]' /etc/knockknock.d/config | grep -qv /dev/kmsg; then
    if [ -e $rsyslog ]; then as_root rm $rsyslog; restart_rsyslog; fi
elif [ -d /etc/rsyslog.d ]; then
    as_root tee $rsyslog > /dev/null << 'END'
if $syslogfacility-text == "kern" and $msg contains "knockknock: IN="
    and $msg contains " SYN URGP=" then stop
END
    restart_rsyslog
    echo "made $rsyslog: rsyslog keeps the knocks out of the log files"
fi
