///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockFirewall
//JAVAC_OPTIONS -XDstringConcat=inline

import java.io.ByteArrayOutputStream;
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
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

import static java.nio.charset.StandardCharsets.US_ASCII;

/**
 * The firewall half: with its child nft the only privileged code of a server that is ready, and
 * CAP_NET_ADMIN is its only privilege. knockknock-daemon starts it as {@code KnockknockFirewall
 * DELAY PORTS KNOCKPORTS}. It makes the log rule, then reads records of 34 bytes from stdin:
 * source and destination (16 bytes each, IPv4 as ::ffff:a.b.c.d), and a port. For each it lets
 * one TCP connection from there to that port of this host in, within DELAY seconds, and answers
 * one byte: 0, or an errno. With nft it changes no rule of the host. When it ends, the kernel
 * removes its table, and openings run out.
 */
final class KnockknockFirewall {
    private static final int ENOENT = 2, EIO = 5, EACCES = 13, EEXIST = 17, ENOSPC = 28;
    private static final int MOST_OPENINGS = 1000; // within DELAY seconds

    /** The log rule, in a table that only its maker may change, and that ends with its maker. */
    private static final String NFT = """
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
            add rule inet knockknock input ct state new tcp flags & (fin|syn|rst|ack) == syn \
            ip saddr . tcp dport @waiting4 drop
            add rule inet knockknock input ct state new tcp flags & (fin|syn|rst|ack) == syn \
            ip6 saddr . tcp dport @waiting6 drop
            list table inet knockknock
            """.replace("LIMIT", "limit rate 50/second burst 100 packets")
            .replace("LOG", "log prefix \"knockknock: \" level debug"
                    + " flags tcp sequence,options flags ip options");

    /**
     * Where there is no nft: a shell that makes the log rule with iptables, waits until its stdin
     * is closed, and removes it. Its $0 is the knock ports.
     */
    private static final String IPTABLES = """
            remove() {
                $1 -w -D INPUT -j KNOCKKNOCK; $1 -w -F KNOCKKNOCK; $1 -w -X KNOCKKNOCK
            } 2> /dev/null
            make() {
                remove $1
                $1 -w -N KNOCKKNOCK && for port in $(echo $ports | tr , ' '); do
                    $1 -w -A KNOCKKNOCK -p tcp --tcp-flags ALL SYN --dport $port -m hashlimit \
                        --hashlimit-name knockknock --hashlimit-mode srcip --hashlimit-srcmask $2 \
                        --hashlimit-upto 50/second --hashlimit-burst 100 \
                        --hashlimit-htable-expire 1000 -j LOG --log-prefix "knockknock: " \
                        --log-level debug --log-tcp-sequence --log-tcp-options --log-ip-options \
                        || return 1
                done && $1 -w -I INPUT -j KNOCKKNOCK
            }
            trap '' HUP INT TERM
            ports=$0
            make iptables 32 && make ip6tables 64 && echo table && cat > /dev/null
            remove iptables; remove ip6tables
            """;

    private static OutputStream maker; // the stdin of nft, or of the shell
    private static final Map<String, Long> heldUntil = new HashMap<>(); // in waiting4, waiting6
    private static final List<Long> openings = new ArrayList<>(); // when each ends
    private static final SecureRandom RANDOM = new SecureRandom();
    private static int netlink; // a socket

    static void main(String[] args) throws Throwable {
        if (args.length != 3) {
            System.err.println("knockknock: this is the firewall half, which knockknock-daemon"
                    + " starts: run that");
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
        try {
            // AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER
            netlink = (int) SOCKET.invokeExact(16, 3, 12);
            // A trial; the JVM loads what the first record will take. No connection has port 0.
            var loopback = InetAddress.getByAddress(new byte[] {127, 0, 0, 1});
            NetworkInterface.getByInetAddress(loopback);
            int error = netlink < 0 ? EIO
                    : expect(loopback.getAddress(), loopback.getAddress(), 0, 1);
            answer(error == EEXIST ? 0 : error); // EEXIST: an earlier run's trial still waits
            var record = new byte[34];
            while (System.in.readNBytes(record, 0, record.length) == record.length) {
                answer(act(ByteBuffer.wrap(record), allowed, delay));
            }
        } finally {
            maker.close(); // so it ends, and this process with it: see makeLogRule
        }
    }

    private static void answer(int error) {
        System.out.write(error);
        System.out.flush();
    }

    private static void makeLogRule(String knockPorts) throws IOException {
        boolean installed = Stream.of(System.getenv("PATH").split(":"))
                .anyMatch(directory -> Files.isExecutable(Path.of(directory, "nft")));
        var builder = new ProcessBuilder(installed ? List.of("nft", "-i")
                : List.of("/bin/sh", "-c", IPTABLES, knockPorts)).redirectErrorStream(true);
        builder.environment().put("INPUTRC", "/dev/null"); // nft's readline is to read no file
        var process = builder.start();
        maker = process.getOutputStream();
        var output = process.inputReader(US_ASCII);
        String first;
        try {
            if (installed) {
                command(NFT.replace("PORTS", knockPorts));
            }
            first = output.readLine();
        } catch (IOException e) {
            first = e.getMessage(); // it has ended
        }
        if (first == null || !first.startsWith("table")) {
            System.err.println("knockknock: cannot make the log rule: " + first
                    + " (install nftables; it takes an nft with -i, and Linux 5.12)");
            answer(EIO);
            System.exit(1);
        }
        Thread.ofPlatform().start(() -> {
            try {
                output.lines().filter(line -> line.startsWith("Error"))
                        .forEach(System.err::println);
            } finally {
                System.exit(0); // the log rule has gone with its maker
            }
        });
    }

    private static void command(String text) throws IOException {
        maker.write(text.getBytes(US_ASCII));
        maker.flush();
    }

    /** Acts on one record: 0 if its port is open now, or an errno. */
    private static int act(ByteBuffer record, BitSet allowed, int delay) throws Throwable {
        // Believe nothing: anyone who has taken over the daemon writes these records.
        var source = address(record);
        var destination = address(record);
        int port = Short.toUnsignedInt(record.getShort());
        if (source.getClass() != destination.getClass() || source.isAnyLocalAddress()
                || source.isLoopbackAddress() || source.isMulticastAddress()
                || source.getHostAddress().equals("255.255.255.255")
                || !allowed.get(port) || destination.isLoopbackAddress()
                || NetworkInterface.getByInetAddress(destination) == null) {
            return EACCES;
        }
        // Leave room for others in the kernel's table of connections.
        long now = System.nanoTime(), end = now + delay * 1_000_000_000L;
        openings.removeIf(until -> until - now <= 0);
        if (openings.size() == MOST_OPENINGS) {
            return ENOSPC;
        }
        int error = expect(source.getAddress(), destination.getAddress(), port, delay);
        if (error == 0) {
            openings.add(end);
        } else if (error == EEXIST) {
            hold(source, port, delay, now, end);
        }
        return error;
    }

    private static InetAddress address(ByteBuffer record) throws IOException {
        var bytes = new byte[16];
        record.get(bytes);
        return InetAddress.getByAddress(bytes); // of ::ffff:a.b.c.d an Inet4Address
    }

    /**
     * Drops SYNs that come too early: they meet no REJECT, and their kernel sends them again. The
     * shell, which has no such sets, ignores this.
     */
    private static void hold(InetAddress source, int port, int delay, long now, long end)
            throws IOException {
        heldUntil.values().removeIf(until -> until - now <= 0);
        var element = source.getHostAddress() + " . " + port;
        if (heldUntil.putIfAbsent(element, end) == null) {
            var set = "inet knockknock waiting" + (source.getAddress().length == 4 ? 4 : 6);
            // A mere add would leave an old element its time.
            command("""
                    add element SET { IT }; delete element SET { IT }; \
                    add element SET { IT timeout TIME }
                    """.replace("SET", set).replace("IT", element)
                    .replace("TIME", delay + 1 + "s"));
        }
    }

    /**
     * Has the kernel's connection tracking expect one connection: 0, or an errno. An expectation
     * belongs to a master connection that has a helper, here ftp. The helper reads what the master
     * carries, and opens the ports that it finds there. So the master is made up, and lies on
     * loopback between two random ports: no packet is ever its own. All numbers and names are those
     * of linux/netlink.h and, in linux/netfilter, nfnetlink.h, nfnetlink_conntrack.h,
     * nf_conntrack_common.h and nf_conntrack_tcp.h; what the kernel makes of them is in
     * net/netfilter/nf_conntrack_netlink.c.
     */
    private static int expect(byte[] from, byte[] to, int port, int seconds) throws Throwable {
        int ack = 4, excl = 0x200, create = 0x400; // NLM_F_*
        var mask = from.clone();
        Arrays.fill(mask, (byte) -1);
        var expected = tuple(2, from, to, 0, port); // CTA_EXPECT_TUPLE

        // Leave an opening alone that still waits for its connection.
        int found = ask(message(2 << 8 | 1, 0, from, expected))[0]; // IPCTNL_MSG_EXP_GET
        if (found != ENOENT) {
            return found == 0 ? EEXIST : found;
        }
        var own = InetAddress.getByName(from.length == 4 ? "127.0.0.1" : "::1").getAddress();
        int x = 1 + RANDOM.nextInt(65535), y = 1 + RANDOM.nextInt(65535);
        var original = tuple(1, own, own, x, y); // CTA_TUPLE_ORIG and CTA_EXPECT_MASTER
        var master = message(1 << 8, ack | create | excl, from, original, // IPCTNL_MSG_CT_NEW
                tuple(2, own, own, y, x), // CTA_TUPLE_REPLY
                attribute(3, number(4, 4 | 8)), // CTA_STATUS: IPS_ASSURED, IPS_CONFIRMED
                nest(4, nest(1, attribute(1, number(1, 1)))), // CTA_PROTOINFO.._TCP_STATE: SYN_SENT
                nest(5, attribute(1, "ftp\0".getBytes(US_ASCII))), // CTA_HELP, CTA_HELP_NAME
                attribute(7, number(4, seconds))); // CTA_TIMEOUT
        byte[][] expectation = {original, expected,
            tuple(3, mask, mask, 0, 0xFFFF), // CTA_EXPECT_MASK
            attribute(4, number(4, seconds))}; // CTA_EXPECT_TIMEOUT
        // The kernel ignores the timeout of a new expectation: make it, then update it.
        var errors = ask(master,
                message(2 << 8, ack | create | excl, from, expectation), // IPCTNL_MSG_EXP_NEW
                message(2 << 8, ack, from, expectation));
        if (errors[0] != 0 && errors[1] == 0) { // it is another master's: leave nothing open
            ask(message(2 << 8 | 2, ack, from, expected)); // IPCTNL_MSG_EXP_DELETE
        }
        if (errors[0] == EEXIST) { // a master between these ports exists already: take others
            return expect(from, to, port, seconds);
        }
        if (errors[0] != 0 || errors[1] != 0) {
            return errors[0] != 0 ? errors[0] : errors[1];
        }
        return errors[2] == ENOENT ? 0 : errors[2]; // ENOENT: it was used in between
    }

    private static byte[] tuple(int type, byte[] from, byte[] to, int fromPort, int toPort) {
        int v6 = from.length == 4 ? 0 : 2;
        return nest(type,
                nest(1, // CTA_TUPLE_IP
                        attribute(1 + v6, from), // CTA_IP_V4_SRC, CTA_IP_V6_SRC
                        attribute(2 + v6, to)), // CTA_IP_V4_DST, CTA_IP_V6_DST
                nest(2, // CTA_TUPLE_PROTO
                        attribute(1, number(1, 6)), // CTA_PROTO_NUM: IPPROTO_TCP
                        attribute(2, number(2, fromPort)), // CTA_PROTO_SRC_PORT
                        attribute(3, number(2, toPort)))); // CTA_PROTO_DST_PORT
    }

    /** {@code length} bytes, big-endian. */
    private static byte[] number(int length, int value) {
        return Arrays.copyOfRange(ByteBuffer.allocate(4).putInt(value).array(), 4 - length, 4);
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

    /** struct nlmsghdr: length, type, flags, sequence, port; struct nfgenmsg: family, 3 zeros. */
    private static byte[] message(int type, int flags, byte[] address, byte[]... attributes) {
        var body = join(attributes);
        return ByteBuffer.allocate(20 + body.length).order(ByteOrder.nativeOrder())
                .putInt(20 + body.length).putShort((short) type)
                .putShort((short) (1 | flags)) // NLM_F_REQUEST
                .put(16, (byte) (address.length == 4 ? 2 : 10)) // AF_INET, AF_INET6
                .put(20, body).array();
    }

    private static byte[] join(byte[]... parts) {
        var all = new ByteArrayOutputStream();
        for (var part : parts) {
            all.writeBytes(part);
        }
        return all.toByteArray();
    }

    private static final MemoryLayout INT = ValueLayout.JAVA_INT, LONG = ValueLayout.JAVA_LONG;
    private static final MethodHandle SOCKET = libc("socket", INT, INT, INT, INT);
    private static final MethodHandle WRITE = libc("write", LONG, INT, ValueLayout.ADDRESS, LONG);
    private static final MethodHandle READ = libc("read", LONG, INT, ValueLayout.ADDRESS, LONG);

    private static MethodHandle libc(String name, MemoryLayout result, MemoryLayout... arguments) {
        var function = Linker.nativeLinker().defaultLookup().findOrThrow(name);
        return Linker.nativeLinker().downcallHandle(function,
                FunctionDescriptor.of(result, arguments));
    }

    /** Sends messages in one go; returns what the kernel answers to each: an errno, or 0. */
    private static int[] ask(byte[]... messages) throws Throwable {
        var errors = new int[messages.length];
        try (var arena = Arena.ofConfined()) {
            var request = arena.allocateFrom(ValueLayout.JAVA_BYTE, join(messages));
            var reply = arena.allocate(8192, 4);
            long done = (long) WRITE.invokeExact(netlink, request, request.byteSize());
            for (int i = 0; i < errors.length && done > 0; i++) {
                done = (long) READ.invokeExact(netlink, reply, reply.byteSize());
                boolean error = reply.get(ValueLayout.JAVA_SHORT, 4) == 2; // NLMSG_ERROR
                errors[i] = error ? -reply.get(ValueLayout.JAVA_INT, 16) : 0;
            }
            if (done <= 0) {
                throw new IOException("the netlink socket failed");
            }
        }
        return errors;
    }
}
