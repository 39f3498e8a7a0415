import java.io.IOException;
import java.net.NetworkInterface;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * knockknock-daemon --check: looks at what a server needs, and says what is wrong and what to do.
 */
final class ServerCheck {
    private static final Path DROP_IN = Path.of("/etc/rsyslog.d/10-knockknock.conf");
    private boolean sound = true;

    /**
     * Checks the profiles, the log, the kernel and the rules in force; true if there is no problem.
     */
    boolean run(Path profiles, ServerConfig config) throws IOException, InterruptedException {
        checkProfiles(profiles);
        if (config.knockAddress().isPresent()) {
            var address = config.knockAddress().get();
            report(NetworkInterface.getByInetAddress(address) != null,
                    "knock_address " + address.getHostAddress() + " is this host's",
                    "knock_address " + address.getHostAddress() + " is no address of this host:"
                    + " 'ip -6 address' lists them");
        }
        checkLog(config.log());
        checkFirewallHalf(config);
        checkRules("IPv4", "iptables-save", "ip|inet");
        checkRules("IPv6", "ip6tables-save", "ip6|inet");
        return sound;
    }

    /** Prints a line for a thing that is all right, or for a problem with its remedy. */
    private void report(boolean ok, String thing, String problem) {
        System.out.println(ok ? "ok       " + thing : "problem  " + problem);
        sound &= ok;
    }

    private void checkProfiles(Path profiles) throws IOException {
        try {
            ProfileConfig.knockPorts(profiles);
        } catch (Failure e) {
            report(false, "", e.getMessage());
        }
        int count = 0;
        for (var path : ProfileConfig.list(profiles)) {
            try {
                var profile = Profile.load(path);
                int port = profile.config().knockPort();
                var opens = profile.config().openPorts().map(Ports::toString)
                        .orElse("any port (with open_ports far more lost knocks do no harm)");
                report(true, "profile " + profile.name() + ": knock port " + port
                        + ", next counter " + profile.counter().read() + ", opens " + opens, "");
                report(!isListening(port), "nothing listens on port " + port, "a service listens on"
                        + " the knock port " + port + ": choose another");
                count++;
            } catch (Failure e) {
                report(false, "", e.getMessage());
            }
        }
        report(count > 0, "profiles: " + count, "no sound profile in " + profiles
                + ": knockknock-genprofile makes one");
    }

    /**
     * Whether a service of this host listens on a TCP port (proc_pid_net(5); state 0A is LISTEN).
     */
    static boolean isListening(int port) throws IOException {
        var line = " *\\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A .*".formatted(port);
        for (var table : List.of(Path.of("/proc/net/tcp"), Path.of("/proc/net/tcp6"))) {
            if (Files.exists(table) && Files.lines(table).anyMatch(entry -> entry.matches(line))) {
                return true;
            }
        }
        return false;
    }

    private void checkLog(Path log) throws IOException {
        if (log.equals(KernelLog.KMSG)) {
            report(Files.isReadable(log), "log " + log, "cannot read " + log
                    + ": in a container this takes CAP_SYSLOG");
            return;
        }
        boolean written = false;
        var file = log.toRealPath();
        try (var processes = Files.newDirectoryStream(Path.of("/proc"), "[0-9]*")) {
            for (var process = processes.iterator(); !written && process.hasNext(); ) {
                written = writesTo(process.next(), file);
            }
        }
        report(!Files.exists(DROP_IN), "nothing keeps knocks out of " + log, DROP_IN + " keeps"
                + " knocks out of " + log + ": remove it and restart rsyslog, or follow /dev/kmsg");
        report(written, "log " + log + ": a program writes to it", "no program writes to " + log
                + ": start rsyslog, or follow /dev/kmsg: take the line 'log =' out of the config");
    }

    /**
     * Whether a process has {@code file} open for writing, as its link in fd tells
     * (proc_pid_fd(5)).
     */
    private static boolean writesTo(Path process, Path file) {
        try (var descriptors = Files.newDirectoryStream(process.resolve("fd"))) {
            for (var descriptor : descriptors) {
                if (Files.readSymbolicLink(descriptor).equals(file)
                        && Files.getPosixFilePermissions(descriptor, LinkOption.NOFOLLOW_LINKS)
                                .contains(PosixFilePermission.OWNER_WRITE)) {
                    return true;
                }
            }
            return false;
        } catch (IOException | DirectoryIteratorException e) {
            return false; // the process has just ended
        }
    }

    /**
     * Starts the firewall half in a network of its own, where it makes its log rule and an opening.
     */
    private void checkFirewallHalf(ServerConfig config) throws InterruptedException {
        try {
            var ownNetwork = List.of("/usr/bin/unshare", "--net", "--");
            var half = FirewallPipe.startHalf(ownNetwork, config, "1-65535", "1");
            half.getOutputStream().close();
            half.waitFor();
            report(true, "log rule and opening: both work on this kernel", "");
        } catch (Failure | IOException e) {
            report(false, "", e.getMessage());
        }
    }

    /** Some rule for incoming packets has to deny, and some rule has to accept RELATED ones. */
    private void checkRules(String version, String save, String families)
            throws InterruptedException {
        var table = Pattern.compile("(?ms)^table (" + families + ") (?!knockknock ).*?^}");
        var rules = inputRules(output(save).replaceAll("(?m)^:(\\S+) (\\S+).*", "-A $1 policy $2"))
                + table.matcher(output("nft", "--terse", "list", "ruleset")).results()
                        .map(found -> inputRules(found.group())).collect(Collectors.joining());
        boolean closed = Pattern.compile("(?i)\\b(drop|reject)\\b").matcher(rules).find();
        report(closed,
                version + ": some rule drops or rejects packets",
                version + ": no rule drops or rejects packets, so every port is open already:"
                + " close them, for example with minimal-firewall.sh");
        report(!closed || Pattern.compile("(?i)\\brelated\\b.*\\baccept\\b").matcher(rules).find(),
                version + ": the rules accept related connections",
                version + ": no rule accepts related connections, and openings are such: add"
                + " 'ct state established,related accept' (nft), or"
                + " '-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT' (iptables)");
    }

    /** The rules of a table, as nft or iptables-save writes it, that packets to this host meet. */
    private static String inputRules(String table) {
        var chains = new HashMap<String, String>();
        var todo = new ArrayDeque<>(List.of("INPUT"));
        var chain = Pattern.compile("(?ms)^\\s+chain (\\S+) \\{(.*?)^\\s+}|^-A (\\S+) (.*?)$");
        chain.matcher(table).results().forEach(found -> {
            boolean nft = found.group(1) != null;
            var name = found.group(nft ? 1 : 3);
            var rule = found.group(nft ? 2 : 4);
            chains.merge(name, rule + "\n", String::concat);
            if (rule.contains("hook input")) {
                todo.add(name);
            }
        });
        var rules = new StringBuilder();
        while (!todo.isEmpty()) {
            var rule = chains.remove(todo.remove());
            if (rule != null) {
                rules.append(rule);
                Pattern.compile("(?:jump|goto|-j|-g) ([^\\s,}]+)").matcher(rule).results()
                        .forEach(found -> todo.add(found.group(1)));
            }
        }
        return rules.toString();
    }

    /** What a program prints; nothing if there is no such program. */
    private static String output(String... command) throws InterruptedException {
        try {
            var process = new ProcessBuilder(command)
                    .redirectError(ProcessBuilder.Redirect.DISCARD).start();
            var text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            process.waitFor();
            return text;
        } catch (IOException e) {
            return "";
        }
    }
}
