///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockFirewall

import java.io.IOException;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import java.util.stream.Gatherers;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * The root half: all of a server that stays root. knockknock-daemon starts it as {@code KnockknockFirewall DELAY ALLOWED
 * KNOCKPORTS} and writes lines "ADDRESS PORT" to its stdin. For each it lets one TCP connection from that address to that
 * port in, within DELAY seconds, and answers "ok" or "error: ...". Nothing else from outside reaches it, and it uses
 * nothing but the JDK and iptables. The kernel closes a port again by itself, whatever happens here. When stdin ends, on a
 * signal, and when the firewall is not as it left it, it removes its chain and ends.
 */
final class KnockknockFirewall {
    private static final String CHAIN = "KNOCKKNOCK";
    private static final String JUMP = "INPUT -j " + CHAIN;
    private static final int LISTS = 8; // an address stands in a list once: so many of its knocks can await a connection
    private static final int LONGEST_REQUEST = "0000:0000:0000:0000:0000:0000:0000:0000 65535".length();

    private static final List<String> tools = new ArrayList<>(); // those in which our chain is
    private static final int[] openings = new int[65536]; // of each port, so far; its rules exist from the first one on

    static void main(String[] args) throws InterruptedException {
        try {
            serve(args[0], args[1], args[2].split(","));
            System.err.println("knockknock: the daemon has ended, and so does its root half");
        } catch (IOException e) {
            System.out.println("error: " + e.getMessage());
        }
        System.exit(1);
    }

    /** Makes the chain, then answers requests until there are no more. */
    private static void serve(String delay, String openPorts, String[] knockPorts) throws IOException, InterruptedException {
        var allowed = new BitSet();
        (openPorts.equals("any") ? IntStream.range(1, 65536) : Stream.of(openPorts.split(",")).mapToInt(Integer::parseInt))
                .forEach(allowed::set);
        Runtime.getRuntime().addShutdownHook(new Thread(KnockknockFirewall::removeChains));
        makeChain("iptables", knockPorts);
        try {
            makeChain("ip6tables", knockPorts);
        } catch (IOException e) {
            System.err.println("knockknock: for IPv4 only: " + e.getMessage());
        }
        System.out.println("ok");
        var request = new byte[LONGEST_REQUEST];
        for (int length; (length = readLine(request)) >= 0; ) {
            System.out.println(answer(new String(request, 0, length, StandardCharsets.US_ASCII), allowed, delay));
        }
    }

    /** Reads a line into {@code line}; returns its length, 0 if it does not fit, -1 at the end of the requests. */
    private static int readLine(byte[] line) throws IOException {
        int length = 0;
        for (int c; (c = System.in.read()) != '\n'; length++) {
            if (c < 0) {
                return -1;
            }
            if (length < line.length) {
                line[length] = (byte) c;
            }
        }
        return length <= line.length ? length : 0;
    }

    /** Opens what {@code request} names, if that is one host's address and one allowed port. */
    private static String answer(String request, BitSet allowed, String delay) throws IOException, InterruptedException {
        var parts = request.split(" ", -1);
        if (parts.length != 2 || !isOneHost(parts[0]) || !parts[1].matches("[1-9][0-9]{0,4}")) {
            return "error: not one address and one port";
        }
        int port = Integer.parseInt(parts[1]);
        if (!allowed.get(port)) {
            return "error: no profile may open this port";
        }
        var list = "knock" + port + "-";
        if (openings[port] == 0) {
            addRules(port, list, delay);
        }
        int next = openings[port]++ & LISTS - 1;
        Files.writeString(Path.of("/proc/net/xt_recent/" + list + next), "+" + parts[0] + "\n", StandardOpenOption.WRITE);
        return "ok";
    }

    /** Whether {@code text} is the address of one host as the JDK writes it: no name, range, zone, option. */
    private static boolean isOneHost(String text) {
        try {
            var address = InetAddress.ofLiteral(text);
            return address.getHostAddress().equals(text) && text.indexOf('%') < 0 && !address.isAnyLocalAddress()
                    && !address.isMulticastAddress() && !text.equals("255.255.255.255");
        } catch (IllegalArgumentException e) {
            return false;
        }
    }

    /** One rule for each list: a new connection from an address that is on it since DELAY seconds or less takes it off. */
    private static void addRules(int port, String list, String delay) throws IOException, InterruptedException {
        var rules = IntStream.range(0, LISTS).mapToObj(i -> "-A " + CHAIN + " -p tcp --syn --dport " + port
                + " -m conntrack --ctstate NEW -m recent --name " + list + i + " --rcheck --seconds " + delay
                + " -m recent --name " + list + i + " --remove -j ACCEPT").toList();
        for (var tool : tools) {
            change(tool, rules);
        }
    }

    /** Makes the chain anew, first in INPUT, with the rules that log knocks; a flood from others must not hide one. */
    private static void makeChain(String tool, String[] knockPorts) throws IOException, InterruptedException {
        var rules = new ArrayList<>(List.of(":" + CHAIN + " - [0:0]"));
        run("", tool, "-w", "-S", "INPUT").lines().filter(("-A " + JUMP)::equals).forEach(_ -> rules.add("-D " + JUMP));
        Stream.of(knockPorts).gather(Gatherers.windowFixed(15)).map(ports -> "-A " + CHAIN + " -p tcp --syn -m multiport"
                + " --dports " + String.join(",", ports) + " -m hashlimit --hashlimit-name knockknock --hashlimit-mode srcip"
                + " --hashlimit-srcmask " + (tool.equals("iptables") ? 32 : 64) + " --hashlimit-upto 50/second --hashlimit-burst 100"
                + " --hashlimit-htable-expire 1000 -j LOG --log-level debug --log-prefix \"knockknock: \""
                + " --log-tcp-sequence --log-tcp-options --log-ip-options").forEach(rules::add);
        rules.add("-I " + JUMP);
        change(tool, rules);
        tools.add(tool);
    }

    private static void removeChains() {
        for (var tool : tools) {
            try {
                change(tool, List.of("-D " + JUMP, "-F " + CHAIN, "-X " + CHAIN));
            } catch (IOException | InterruptedException e) {
                System.err.println("knockknock: the chain " + CHAIN + " is still there: " + e.getMessage());
            }
        }
    }

    /** Makes all changes or none. */
    private static void change(String tool, List<String> rules) throws IOException, InterruptedException {
        run("*filter\n" + String.join("\n", rules) + "\nCOMMIT\n", tool + "-restore", "-w", "--noflush");
    }

    private static String run(String input, String... command) throws IOException, InterruptedException {
        var process = new ProcessBuilder(command).redirectErrorStream(true).start();
        try (var stdin = process.outputWriter(StandardCharsets.US_ASCII)) {
            stdin.write(input);
        }
        var output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (process.waitFor() != 0) {
            throw new IOException(command[0] + ": " + output.strip().replace('\n', ' '));
        }
        return output;
    }
}
