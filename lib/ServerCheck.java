import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.List;
import java.util.regex.Pattern;

/**
 * knockknock-daemon --check: looks at all that a server needs, changes nothing, and says what is
 * wrong and what to do.
 */
final class ServerCheck {
    private boolean sound = true;

    /**
     * Checks the profiles, the log, the kernel and the rules in force; true if there is no problem.
     */
    boolean run(Path profiles, ServerConfig config) throws IOException, InterruptedException {
        checkProfiles(profiles);
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
            Profile.knockPorts(profiles);
        } catch (Failure e) {
            report(false, "", e.getMessage());
        }
        int count = 0;
        for (var path : Profile.list(profiles)) {
            try {
                var profile = Profile.load(path);
                int port = profile.settings().knockPort();
                report(true, "profile " + profile.name() + ": knock port " + port + ", next counter " + profile.counter().read()
                        + ", opens " + profile.settings().openPorts().map(ports -> "ports " + ports).orElse("any port"), "");
                report(!isListening(port), "nothing listens on " + port, "a service listens on the knock port " + port
                        + ": choose another");
                count++;
            } catch (Failure e) {
                report(false, "", e.getMessage());
            }
        }
        report(count > 0, "profiles: " + count, "no sound profile in " + profiles + ": knockknock-genprofile makes one");
    }

    /**
     * Whether a service of this host listens on a TCP port (proc_pid_net(5); state 0A is LISTEN).
     */
    static boolean isListening(int port) throws IOException {
        var listening = Pattern.compile(" *\\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A .*".formatted(port)).asMatchPredicate();
        for (var table : List.of(Path.of("/proc/net/tcp"), Path.of("/proc/net/tcp6"))) {
            if (Files.exists(table) && Files.readAllLines(table).stream().anyMatch(listening)) {
                return true;
            }
        }
        return false;
    }

    private void checkLog(Path log) throws IOException {
        if (log.equals(KernelLog.KMSG)) {
            report(Files.isReadable(log), "log " + log, "cannot read " + log + ": is this a container?");
            return;
        }
        boolean written = false;
        var file = log.toRealPath();
        try (var processes = Files.newDirectoryStream(Path.of("/proc"), "[0-9]*")) {
            for (var process = processes.iterator(); !written && process.hasNext(); ) {
                written = writesTo(process.next(), file);
            }
        }
        report(written, "log " + log + ": a program writes to it", "no program writes to " + log
                + ": start rsyslog, or take the line 'log =' out of the config to follow /dev/kmsg");
    }

    /**
     * Whether a process has {@code file} open for writing, which the mode of its link in fd tells
     * (proc_pid_fd(5)).
     */
    private static boolean writesTo(Path process, Path file) {
        try (var descriptors = Files.newDirectoryStream(process.resolve("fd"))) {
            for (var descriptor : descriptors) {
                if (Files.readSymbolicLink(descriptor).equals(file) && Files.getPosixFilePermissions(descriptor,
                        LinkOption.NOFOLLOW_LINKS).contains(PosixFilePermission.OWNER_WRITE)) {
                    return true;
                }
            }
            return false;
        } catch (IOException | DirectoryIteratorException e) {
            return false; // the process has just ended
        }
    }

    /**
     * Starts the firewall half in a network namespace of its own, where it makes its log rule and
     * tries an opening.
     */
    private void checkFirewallHalf(ServerConfig config) throws IOException, InterruptedException {
        try {
            var half = FirewallPipe.start(List.of("/usr/bin/unshare", "--net", "--"), config, "any", "1");
            half.getOutputStream().close();
            half.waitFor();
            report(true, "log rule and opening: this kernel and nft can", "");
        } catch (Failure e) {
            report(false, "", e.getMessage());
        }
    }

    /**
     * Reads the rules in force: something has to be denied, and connections that are expected have
     * to be let in.
     */
    private void checkRules(String version, String save, String families) throws InterruptedException {
        var nft = Pattern.compile("(?ms)^table (" + families + ") (?!knockknock ).*?^}").matcher(output("nft", "list", "ruleset"))
                .results().map(table -> table.group()).reduce("", String::concat);
        var rules = nft + output(save);
        boolean denies = Pattern.compile("(?i)policy drop|:INPUT DROP|\\b(drop|reject)\\b").matcher(rules).find();
        report(denies, version + ": the rules deny what is not allowed", version + ": the rules let everything in, so there is"
                + " nothing to open: deny, for example with minimal-firewall.sh");
        boolean related = Pattern.compile("(?i)\\brelated\\b.*\\baccept\\b").matcher(rules).find();
        report(related, version + ": the rules accept related connections", version + ": no rule accepts related connections,"
                + " and so no opening works: add 'ct state established,related accept' (nft),"
                + " or -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT (iptables)");
    }

    /** What a program prints; nothing if there is no such program. */
    private static String output(String... command) throws InterruptedException {
        try {
            var process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.DISCARD).start();
            var text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            process.waitFor();
            return text;
        } catch (IOException e) {
            return "";
        }
    }
}
