///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockFirewall
//JAVAC_OPTIONS -XDstringConcat=inline

import java.io.IOException;
import java.io.OutputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.net.InetAddress;
import java.net.NetworkInterface;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * The firewall half: the only privileged code of a server, and CAP_NET_ADMIN is its only privilege.
 * knockknock-daemon starts it as {@code KnockknockFirewall DELAY PORTS KNOCKPORTS}. It makes the
 * log rule, then reads records of 34 bytes from stdin: source and destination (16 bytes each, IPv4
 * as ::ffff:a.b.c.d) and a port. For each it lets one TCP connection from there to that port of
 * this host in, within DELAY seconds, and answers one byte: 0, or an errno. It neither reads nor
 * changes the host's rules, and starts nothing but nft. When it ends, the kernel takes back what it
 * did.
 */
final class KnockknockFirewall {
    private static final int ENOENT = 2, EIO = 5, EACCES = 13, EEXIST = 17; // errno-base.h

    /**
     * The log rule, in a table that only its owner may change, and that the kernel removes with it.
     */
    private static final String LOG_RULE = """
            add table inet knockknock { flags owner; }
            add chain inet knockknock input \
            { type filter hook input priority filter - 10; policy accept; }
            add set inet knockknock logged4 \
            { type ipv4_addr; size 65535; flags dynamic, timeout; timeout 1s; }
            add set inet knockknock logged6 \
            { type ipv6_addr; size 65535; flags dynamic, timeout; timeout 1s; }
            add rule inet knockknock input tcp dport { PORTS } tcp flags == syn \
            update @logged4 { ip saddr LIMIT } LOG
            add rule inet knockknock input tcp dport { PORTS } tcp flags == syn \
            update @logged6 { ip6 saddr & ffff:ffff:ffff:ffff:: LIMIT } LOG
            add set inet knockknock waiting4 { type ipv4_addr . inet_service; flags timeout; }
            add set inet knockknock waiting6 { type ipv6_addr . inet_service; flags timeout; }
            add rule inet knockknock input ct state new tcp flags & (fin | syn | rst | ack) == syn \
            ip saddr . tcp dport @waiting4 drop
            add rule inet knockknock input ct state new tcp flags & (fin | syn | rst | ack) == syn \
            ip6 saddr . tcp dport @waiting6 drop
            list table inet knockknock
            """.replace("LIMIT", "limit rate 50/second burst 100 packets").replace("LOG",
            "log prefix \"knockknock: \" level debug flags tcp sequence,options flags ip options");

    /**
     * Where there is no nft: a shell that makes the log rule in iptables, and removes it at the
     * end.
     */
    private static final String IPTABLES = """
            remove() {
                $1 -w -D INPUT -j KNOCKKNOCK; $1 -w -F KNOCKKNOCK; $1 -w -X KNOCKKNOCK
            } 2> /dev/null
            make() {
                remove $1; $1 -w -N KNOCKKNOCK && for port in $knockports; do
                    $1 -w -A KNOCKKNOCK -p tcp --tcp-flags ALL SYN --dport $port -m hashlimit \
                        --hashlimit-name knockknock --hashlimit-mode srcip --hashlimit-srcmask $2 \
                        --hashlimit-upto 50/second --hashlimit-burst 100 --hashlimit-htable-expire 1000 \
                        -j LOG --log-prefix "knockknock: " --log-level debug \
                        --log-tcp-sequence --log-tcp-options --log-ip-options || return 1
                done && $1 -w -I INPUT -j KNOCKKNOCK
            }
            trap '' HUP INT TERM
            knockports=$(echo $0 | tr , ' ')
            make iptables 32 && make ip6tables 64 && echo table && cat > /dev/null
            remove iptables; remove ip6tables
            """;

    private static final MemoryLayout INT = ValueLayout.JAVA_INT, LONG = ValueLayout.JAVA_LONG;
    private static final MethodHandle SOCKET = libc("socket", INT, INT, INT, INT);
    private static final MethodHandle WRITE = libc("write", LONG, INT, ValueLayout.ADDRESS, LONG);
    private static final MethodHandle READ = libc("read", LONG, INT, ValueLayout.ADDRESS, LONG);

    private static int netlink;
    private static OutputStream commands; // to nft
    private static final Map<String, Long> waiting = new HashMap<>(); // waiting4 and 6, until when

    static void main(String[] args) throws Throwable {
        if (args.length != 3) {
            System.err.println("knockknock: this is the firewall half, which knockknock-daemon starts: run that");
            System.exit(2);
        }
        int delay = Integer.parseInt(args[0]);
        var allowed = new BitSet();
        if (args[1].equals("any")) {
            allowed.set(1, 65536);
        } else {
            Stream.of(args[1].split(",")).mapToInt(Integer::parseInt).forEach(allowed::set);
        }
        makeLogRule(args[2]);
        netlink = (int) SOCKET.invokeExact(16, 3, 12); // AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER
        var loopback = new byte[] {127, 0, 0, 1};
        int error = open(loopback, loopback, 0, 1); // tries the kernel, with a port that no packet has
        answer(error == EEXIST ? 0 : error); // that of a run just before
        var record = new byte[34];
        while (System.in.readNBytes(record, 0, record.length) == record.length) {
            answer(act(ByteBuffer.wrap(record), allowed, delay));
        }
        System.exit(0);
    }

    private static void answer(int error) {
        System.out.write(error);
        System.out.flush();
    }

    private static void makeLogRule(String knockPorts) throws IOException {
        boolean nft = Stream.of(System.getenv("PATH").split(":")).anyMatch(
                dir -> Files.isExecutable(Path.of(dir, "nft")));
        var command = nft ? List.of("nft", "-i") : List.of("/bin/sh", "-c", IPTABLES, knockPorts);
        var maker = new ProcessBuilder(command).redirectErrorStream(true).start();
        commands = maker.getOutputStream();
        command(nft ? LOG_RULE.replace("PORTS", knockPorts) : "");
        var output = maker.inputReader(StandardCharsets.UTF_8);
        var first = output.readLine();
        if (first == null || !first.startsWith("table")) {
            System.err.println("knockknock: cannot make the log rule: " + first
                    + " (install nftables; nft -i and Linux 5.12 do)");
            answer(EIO);
            System.exit(1);
        }
        Thread.ofPlatform().daemon().start(() -> {
            output.lines().filter(line -> line.startsWith("Error")).forEach(System.err::println);
            System.exit(1); // the log rule has gone with its maker
        });
    }

    private static void command(String text) throws IOException {
        commands.write(text.getBytes(StandardCharsets.US_ASCII));
        commands.flush();
    }

    /** Acts on one record: 0 if it opened the port, or an errno. */
    private static int act(ByteBuffer record, BitSet allowed, int delay) throws Throwable {
        var source = address(record);
        var destination = address(record);
        int port = Short.toUnsignedInt(record.getShort());
        // Check once more what the daemon has checked.
        if (source.getClass() != destination.getClass() || source.isAnyLocalAddress()
                || source.isLoopbackAddress() || source.isMulticastAddress()
                || source.getHostAddress().equals("255.255.255.255")
                || NetworkInterface.getByInetAddress(destination) == null || !allowed.get(port)) {
            return EACCES;
        }
        int error = open(source.getAddress(), destination.getAddress(), port, delay);
        if (error == EEXIST) {
            hold(source, port, delay);
        }
        return error;
    }

    private static InetAddress address(ByteBuffer record) throws IOException {
        var bytes = new byte[16];
        record.get(bytes);
        return InetAddress.getByAddress(bytes);
    }

    /**
     * Drops SYNs that come before their turn, so that they come again, and meet no REJECT of the
     * host.
     */
    private static void hold(InetAddress source, int port, int delay) throws IOException {
        long now = System.nanoTime();
        waiting.values().removeIf(end -> end - now <= 0);
        var element = source.getHostAddress() + " . " + port;
        if (waiting.putIfAbsent(element, now + delay * 1_000_000_000L) == null) {
            command("add element inet knockknock waiting" + (source.getAddress().length == 4 ? 4 : 6)
                    + " { " + element + " timeout " + delay + "s }\n");
        }
    }

    /**
     * Has the kernel's connection tracking expect one connection: 0, or an errno. An expectation
     * belongs to a master connection, which is made up for it. Names and numbers are those of
     * linux/netlink.h and linux/netfilter/nfnetlink_conntrack.h;
     * net/netfilter/nf_conntrack_netlink.c acts on them.
     */
    private static int open(byte[] from, byte[] to, int port, int seconds) throws Throwable {
        byte family = (byte) (from.length == 4 ? 2 : 10); // AF_INET, AF_INET6
        var mask = new byte[from.length];
        Arrays.fill(mask, (byte) 0xFF);
        int ack = 4, excl = 0x200, create = 0x400; // NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE

        // Leave an opening alone that still waits for its connection.
        var expected = tuple(2, from, to, 0, port); // CTA_EXPECT_TUPLE
        int found = ask(message(2 << 8 | 1, 0, family, expected))[0]; // IPCTNL_MSG_EXP_GET
        if (found != ENOENT) {
            return found == 0 ? EEXIST : found;
        }
        var master = message(1 << 8, ack | create, family, // IPCTNL_MSG_CT_NEW
                tuple(1, from, to, port, 0), // CTA_TUPLE_ORIG; no packet has a port 0
                tuple(2, to, from, 0, port), // CTA_TUPLE_REPLY
                attribute(3, be32(4 | 8)), // CTA_STATUS: IPS_ASSURED, IPS_CONFIRMED
                nest(4, nest(1, attribute(1, new byte[] {1}))), // CTA_PROTOINFO, _TCP, _STATE: SYN_SENT
                nest(5, attribute(1, "ftp\0".getBytes(StandardCharsets.US_ASCII))), // CTA_HELP, _NAME
                attribute(7, be32(seconds))); // CTA_TIMEOUT
        byte[][] expectation = {
            tuple(1, from, to, port, 0), // CTA_EXPECT_MASTER
            expected,
            tuple(3, mask, mask, 0, 0xFFFF), // CTA_EXPECT_MASK
            attribute(4, be32(seconds))}; // CTA_EXPECT_TIMEOUT, which the kernel takes at the second time
        var errors = ask(master, // the others: IPCTNL_MSG_EXP_NEW
                message(2 << 8, ack | create | excl, family, expectation),
                message(2 << 8, ack, family, expectation));
        if (errors[2] == ENOENT) {
            errors[2] = 0; // the connection has come already
        }
        return IntStream.of(errors).filter(error -> error != 0).findFirst().orElse(0);
    }

    /** Both addresses and ports of a TCP connection; of the type CTA_TUPLE_* or CTA_EXPECT_*. */
    private static byte[] tuple(int type, byte[] from, byte[] to, int fromPort, int toPort) {
        int v6 = from.length == 4 ? 0 : 2;
        return nest(type,
                nest(1, attribute(1 + v6, from), attribute(2 + v6, to)), // CTA_TUPLE_IP, CTA_IP_V4_SRC..
                nest(2, attribute(1, new byte[] {6}), // CTA_TUPLE_PROTO, CTA_PROTO_NUM: IPPROTO_TCP
                        attribute(2, be16(fromPort)), // CTA_PROTO_SRC_PORT
                        attribute(3, be16(toPort)))); // CTA_PROTO_DST_PORT
    }

    private static byte[] be16(int value) {
        return new byte[] {(byte) (value >> 8), (byte) value};
    }

    private static byte[] be32(int value) {
        return ByteBuffer.allocate(4).putInt(value).array();
    }

    private static byte[] nest(int type, byte[]... attributes) {
        return attribute(0x8000 | type, attributes); // NLA_F_NESTED
    }

    /** struct nlattr: length, type; then the contents, and zeros up to a multiple of 4. */
    private static byte[] attribute(int type, byte[]... contents) {
        var body = join(contents);
        return ByteBuffer.allocate(4 + body.length + 3 & ~3).order(ByteOrder.nativeOrder())
                .putShort((short) (4 + body.length)).putShort((short) type).put(body).array();
    }

    /**
     * struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: family, version, id.
     */
    private static byte[] message(int type, int flags, byte family, byte[]... attributes) {
        var body = join(attributes);
        return ByteBuffer.allocate(20 + body.length).order(ByteOrder.nativeOrder())
                .putInt(20 + body.length).putShort((short) type).putShort((short) (1 | flags)) // NLM_F_REQUEST
                .position(16).put(family).position(20).put(body).array();
    }

    private static byte[] join(byte[]... parts) {
        var all = ByteBuffer.allocate(Stream.of(parts).mapToInt(part -> part.length).sum());
        Stream.of(parts).forEach(all::put);
        return all.array();
    }

    /** Sends messages in one go; returns what the kernel answers to each: an errno, or 0. */
    private static int[] ask(byte[]... messages) throws Throwable {
        var errors = new int[messages.length];
        try (var arena = Arena.ofConfined()) {
            var request = arena.allocateFrom(ValueLayout.JAVA_BYTE, join(messages));
            var answer = arena.allocate(8192, 4);
            long done = (long) WRITE.invokeExact(netlink, request, request.byteSize());
            for (int i = 0; i < errors.length && done > 0; i++) {
                done = (long) READ.invokeExact(netlink, answer, answer.byteSize());
                boolean error = answer.get(ValueLayout.JAVA_SHORT, 4) == 2; // NLMSG_ERROR
                errors[i] = error ? -answer.get(ValueLayout.JAVA_INT, 16) : 0;
            }
            if (done <= 0) {
                throw new IOException("the netlink socket failed");
            }
        }
        return errors;
    }

    private static MethodHandle libc(String function, MemoryLayout result, MemoryLayout... arguments) {
        return Linker.nativeLinker().downcallHandle(Linker.nativeLinker().defaultLookup()
                .findOrThrow(function), FunctionDescriptor.of(result, arguments));
    }
}
