#!/bin/sh
# knock.sh PORT HOST: one knock without any privilege, for phones (Termux) and all that has no Java.
# It sends what PROTOCOL.md calls the carrier "address": it begins an ordinary connection, and where
# that goes to is the sealed request. The server needs knock_address. Needed here: openssl, curl,
# awk and, for a HOST that is a name, getent or dig. The profile is that of the Java programs,
# ~/.knockknock/HOST/, as it is.
# What it does not do: other carriers; IPv4; hide the keys from other users of this machine, who can
# see them among openssl's arguments; share a profile with the Java programs at the same time, as
# neither sees the other's lock. Where no "ip route" tells this system's own address, as on many
# phones, the knock is not bound to it (PROTOCOL.md 9.1), and a note says so.
set -eu
export LC_ALL=C
fail() { echo "knock.sh: $*" >&2; exit 1; }
[ $((65536 * 65536)) = 4294967296 ] || fail "this shell counts to 2^31 only: use dash or bash"
[ $# = 2 ] || { echo "usage: knock.sh PORT HOST; its first lines say more" >&2; exit 2; }
for program in openssl curl awk; do
    command -v $program > /dev/null || fail "there is no $program: install it"
done
port=$1 host=$2 profile=$HOME/.knockknock/$2
cd "$profile" 2> /dev/null || fail "there is no profile $profile: copy one from the server"

setting() { sed -n "s/^[[:space:]]*$1[[:space:]]*[=:]//p" config | tr -d ' \t\r'; }
port_number() {
    case $1 in '' | 0* | *[!0-9]* | ??????*) false ;; *) [ "$1" -le 65535 ] ;; esac
}
key() { # from base64 to hexadecimal
    case $(ls -ld "$1") in
    -???------*) ;;
    *) fail "$profile/$1 is open to other users: chmod 600 $profile/$1" ;;
    esac
    hex=$(openssl base64 -d < "$1" | hexadecimal)
    [ ${#hex} = 32 ] && echo "$hex" || fail "$profile/$1 is damaged: copy it from the server again"
}
hexadecimal() { od -An -v -tx1 | tr -d ' \n'; }
bytes() { # from hexadecimal
    for byte in $(echo "$1" | sed 's/../0x& /g'); do printf "\\$(printf %03o "$byte")"; done
}
words() { # of an IPv6 address: 32 hexadecimal digits; nothing if it is none
    echo "$1" | awk '/^[0-9a-fA-F:]+$/ && /:/ && !/::.*::|:::|[^:][^:][^:][^:][^:]/ {
        for (given = gsub(/[0-9a-fA-F]+/, "&"); given < 8; given++) zeros = zeros ":0"
        sub(/::/, zeros ":")
        n = split(tolower($0), word, ":")
        for (i = 1; i <= n; i++)
            if (word[i] != "") all = all substr("0000" word[i], length(word[i]) + 1)
        print all }'
}

cipher=$(key cipher.key)
mac=$(key mac.key)
knock_port=$(setting knock_port)
open_ports=$(setting open_ports)
port_number "$port" || fail "'$port' is not a port: give a number from 1 to 65535"
port_number "$knock_port" || fail "$profile/config: knock_port is not a number from 1 to 65535"
case ,$open_ports, in
,, | *,"$port",* | *,"$port"/udp,*) ;;
*) fail "the profile $host does not open port $port, only $open_ports: see its config" ;;
esac
case $host in
*:*) address=$host ;;
*) address=$({ getent ahostsv6 "$host" || dig +short AAAA "$host"; } 2> /dev/null \
    | awk '/:/ && !/^(::ffff:|64:ff9b:)/ { print $1; exit }') ;;
esac
server=$(words "$address")
[ ${#server} = 32 ] || fail "no IPv6 address of $host is known (getent or dig looks it up)"

# Whom the knock is for: PROTOCOL.md 5.
source=$(setting source)
case $source in
any) own= ;;
*:*) own=$(words "$source")
    [ ${#own} = 32 ] || fail "$profile/config: source = $source is no IPv6 address" ;;
*) own=$(ip -6 route get "$address" 2> /dev/null | sed -n 's/.* src \([0-9a-f:]*\).*/\1/p')
    own=$(words "$own")
    case $source:$own in
    bound:) fail "source = bound, but this system does not tell its own address" ;;
    *:) echo "knock.sh: note: not bound, as this system does not tell its own address" >&2 ;;
    bound:*) ;;
    *:20010db8* | *:3fff0*) own= ;; # for documentation
    *:2* | *:3*) ;; # global unicast
    *) own= ;;
    esac ;;
esac

# 1. Lock the counter.
tries=0
until mkdir lock 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 5 ] || fail "another knock.sh uses $profile; if none does: rmdir $profile/lock"
    sleep 1
done
trap 'rmdir "$profile/lock"' EXIT
trap 'exit 1' HUP INT TERM
# 2, 3. Take the next counter; the disk has it as used before it is.
counter=$(sed 's/^0*\([0-9]\)/\1/' counter)
case $counter in
'' | *[!0-9]* | ???????????*) fail "$profile/counter is damaged: it must be a number" ;;
esac
[ "$counter" -le 4294967295 ] || fail "all counters of $profile are used up: make a new profile"
printf '%010d\n' $((counter + 1)) 1<> counter
sync counter
# 4. Seal: (port || tag) XOR pad, of which the first 8 bytes are carried.
port=$(printf %04x "$port")
tag=$(bytes "$port$own" | openssl dgst -sha1 -mac HMAC -macopt "hexkey:$mac" | sed 's/.*[= ]//')
pad=$(bytes "$(printf %032x "$counter")" \
    | openssl enc -aes-128-ecb -nopad -K "$cipher" | hexadecimal)
[ ${#tag}:${#pad} = 40:32 ] || fail "openssl did not do its work; the counter is used up"
knock=$(echo "$server" | cut -c 1-16 | sed 's/..../&:/g')
for at in 1-4 5-8 9-12 13-16; do
    word=$(echo "$port$tag" | cut -c $at) mask=$(echo "$pad" | cut -c $at)
    knock=$knock$(printf %04x: $((0x$word ^ 0x$mask)))
done
knock=${knock%:}
# 5. Send one SYN. Nobody answers, and a second one would follow after a second.
curl -q -g -s -o /dev/null --noproxy '*' -m 0.3 "http://[$knock]:$knock_port/" || status=$?
[ ${status-0} = 28 ] || fail "curl ended with ${status-0}: is the network of $address routed to it?"
