///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockFirewall
//SOURCES lib/Failure.java
//SOURCES lib/Libc.java
//SOURCES lib/server/Netfilter.java
//SOURCES lib/server/Openings.java
//FILES knockknock.nft

import java.io.IOException;
import java.net.InetAddress;
import java.net.NetworkInterface;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.BitSet;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

import static java.nio.charset.StandardCharsets.US_ASCII;

/**
 * The firewall half: the only privileged code of a server that is ready, with CAP_NET_ADMIN alone.
 * The daemon starts it with DELAY, the PORTS that may be opened, KNOCKPORTS and a /64. It makes the
 * log rule (knockknock.nft), and says in one byte whether it can work. Then it reads records of 34
 * bytes: source and destination (16 bytes each, IPv4 as ::ffff:a.b.c.d), and a port. For each it
 * lets one connection from there to that port of this host in, within DELAY seconds, and answers
 * with a byte: 0, or an errno. At the end of stdin, or a signal, it takes the log rule away.
 * Here stands what may be asked for and in whose name; the rest is in the files above.
 */
final class KnockknockFirewall {
    private static final int EIO = 5, EACCES = 13, IPPROTO_TCP = 6, IPPROTO_UDP = 17;
    private static final int RULES = 4; // that knockknock.nft has
    private static final String CLEAR = "add table inet knockknock; delete table inet knockknock\n";
    /** proc_pid_status(5) of one who is not root and has no capability but CAP_NET_ADMIN (12). */
    private static final String UNPRIVILEGED = "[UG]id:(\t[1-9]\\d*){4}|Groups:\\s*|NoNewPrivs:\t1"
            + "|Cap(Inh|Prm|Eff|Bnd|Amb):\t0{12}[01]000";

    private final Netfilter kernel = new Netfilter(0);
    private final Netfilter events = // NFNLGRP_CONNTRACK_EXP_DESTROY, NFNLGRP_NFTABLES
            new Netfilter(1 << 6 - 1 | 1 << 7 - 1);
    private final Openings openings;
    private final BitSet tcp = new BitSet(), udp = new BitSet(); // the ports that may be opened
    private final String chain = "k%016x".formatted(new SecureRandom().nextLong());
    private final String table;
    private boolean eventsCome;

    static void main(String[] args) throws IOException {
        Thread.setDefaultUncaughtExceptionHandler((_, e) -> {
            System.err.println("knockknock: the firewall half: " + e.getMessage());
            answer(EIO);
            Runtime.getRuntime().halt(1); // the daemon then ends too, and opens nothing more
        });
        var status = Files.readAllLines(Path.of("/proc/self/status")).stream();
        if (status.filter(line -> line.matches(UNPRIVILEGED)).count() != 9) {
            throw new Failure("takes CAP_NET_ADMIN alone: have knockknock-daemon start it");
        }
        new KnockknockFirewall(args[0], args[1], args[2], args[3]).run();
    }

    private KnockknockFirewall(String delay, String ports, String knockPorts, String network)
            throws IOException {
        openings = new Openings(kernel, Integer.parseInt(delay));
        for (var port : ports.split(",")) { // 22, 1-65535 or 51820/udp
            var range = port.replace("/udp", "").split("-");
            (port.endsWith("/udp") ? udp : tcp).set(Integer.parseInt(range[0]),
                    1 + Integer.parseInt(range[range.length - 1]));
        }
        try (var text = KnockknockFirewall.class.getResourceAsStream("knockknock.nft")) {
            table = new String(text.readAllBytes(), US_ASCII).replace("666", knockPorts)
                    .replace("2001:db8::", network).replace("CHAIN", chain);
        }
    }

    private void run() throws IOException {
        // A trial of two openings, which loads what the first knocks take. Port 0 is no service's.
        var own = InetAddress.ofLiteral("127.0.0.1");
        NetworkInterface.getByInetAddress(own);
        var trial = new Netfilter.Flow(own, own, IPPROTO_TCP, 0);
        int error = openings.open(trial);
        openings.open(trial);
        kernel.about(Netfilter.EXP_DELETE, trial);
        Netfilter.nft(CLEAR + table);
        Runtime.getRuntime().addShutdownHook(new Thread(this::end));
        while (!take(events.receive())) { } // of the table, and so, before it, of the trial
        kernel.about(Netfilter.EXP_DELETE, trial);
        if (error == 0 && !eventsCome) {
            System.err.println("knockknock: warning: with net.netfilter.nf_conntrack_events = 0, a"
                    + " second knock for one port opens when the time of the first is over");
        }
        Thread.ofPlatform().start(() -> Stream.generate(events::receive).forEach(this::take));
        answer(error);
        var record = new byte[34];
        while (System.in.readNBytes(record, 0, record.length) == record.length) {
            answer(open(ByteBuffer.wrap(record)));
        }
        System.exit(0);
    }

    private static void answer(int error) {
        System.out.write(error);
        System.out.flush();
    }

    /** Acts on one record: 0 if one more connection will be let in, or an errno. */
    private int open(ByteBuffer record) throws IOException {
        // Believe nothing: anyone who has taken over the daemon writes these records.
        var source = address(record);
        var destination = address(record);
        int port = Short.toUnsignedInt(record.getShort());
        if (source.getClass() != destination.getClass() || source.isAnyLocalAddress()
                || source.isLoopbackAddress() || source.isMulticastAddress()
                || source.getHostAddress().equals("255.255.255.255")
                || !tcp.get(port) && !udp.get(port) || destination.isLoopbackAddress()
                || NetworkInterface.getByInetAddress(destination) == null) {
            return EACCES;
        }
        int protocol = udp.get(port) ? IPPROTO_UDP : IPPROTO_TCP;
        return openings.open(new Netfilter.Flow(source, destination, protocol, port));
    }

    private static InetAddress address(ByteBuffer record) throws IOException {
        var bytes = new byte[16];
        record.get(bytes);
        return InetAddress.getByAddress(bytes); // of ::ffff:a.b.c.d an Inet4Address
    }

    /** Takes what the kernel tells everybody; true if rules were changed, by anybody. */
    private boolean take(List<ByteBuffer> messages) {
        boolean changed = messages.isEmpty();
        for (var message : messages) {
            int type = Netfilter.type(message);
            changed |= type == Netfilter.NEWGEN;
            if (type == Netfilter.EXP_DELETE) {
                eventsCome = true;
                openings.next(new Netfilter.Flow(message));
            }
        }
        if (messages.isEmpty()) { // some were lost, and more may be until the others are taken
            lookAtAll();
            CompletableFuture.delayedExecutor(1, TimeUnit.SECONDS).execute(this::lookAtAll);
        } else if (changed) {
            keepTable();
        }
        return changed;
    }

    private void lookAtAll() {
        openings.lookAtAll();
        keepTable();
    }

    private synchronized void keepTable() {
        if (kernel.rules("knockknock", chain) != RULES) {
            Netfilter.nft(table);
            System.err.println("knockknock: the log rule was changed: it is made anew");
        }
    }

    private synchronized void end() {
        Netfilter.nft(CLEAR);
        Runtime.getRuntime().halt(0); // at once, or it would be made anew
    }
}
