import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** knockknock-firewall alone, as the daemon starts it, against real iptables and against all that it must refuse. */
class RootHalfTest {
    @AutoClose
    private Lab lab;
    private Process rootHalf;
    private Writer requests;
    private BufferedReader answers;

    @BeforeEach
    void startLab() throws Exception {
        lab = new Lab();
    }

    @AfterEach
    void endRootHalf() throws Exception {
        if (rootHalf != null) {
            rootHalf.destroyForcibly().waitFor();
        }
    }

    private void start(String allowed, String... options) throws Exception {
        var classPath = lab.script("knockknock-daemon");
        var jar = classPath.get(classPath.indexOf("-classpath") + 1).split(":")[0];
        var command = new ArrayList<>(List.of(System.getProperty("java.home") + "/bin/java"));
        command.addAll(List.of(options));
        command.addAll(List.of("-Xmx8m", "-Xint", "-cp", jar, "KnockknockFirewall", "3", allowed, "666,667"));
        rootHalf = new ProcessBuilder(Lab.on("server", command)).redirectError(lab.work.resolve("err").toFile()).start();
        requests = rootHalf.outputWriter(StandardCharsets.US_ASCII);
        answers = rootHalf.inputReader(StandardCharsets.US_ASCII);
        assertEquals("ok", answers.readLine());
    }

    private String ask(String request) throws IOException {
        requests.write(request + "\n");
        requests.flush();
        return answers.readLine();
    }

    private String rules(String tool) throws Exception {
        return lab.mustOn("server", tool, "-w", "-S");
    }

    @Test
    void theChainComesFirstAndGoesWithoutATrace() throws Exception {
        var before = rules("iptables");
        var before6 = rules("ip6tables");
        start("22");
        for (var tool : List.of("iptables", "ip6tables")) {
            var input = lab.mustOn("server", tool, "-w", "-S", "INPUT").lines().toList();
            assertEquals("-A INPUT -j KNOCKKNOCK", input.get(1));
            var log = rules(tool).lines().filter(rule -> rule.startsWith("-A KNOCKKNOCK")).toList();
            assertEquals(1, log.size());
            for (var part : List.of("--dports 666,667 ", "--hashlimit-mode srcip", "-j LOG", "--log-prefix \"knockknock: \"",
                    "--log-tcp-sequence", "--log-tcp-options", "--log-ip-options", "--log-level 7")) {
                assertTrue(log.getFirst().contains(part), part + " in " + log);
            }
        }
        rootHalf.destroy();
        assertTrue(rootHalf.waitFor(10, TimeUnit.SECONDS));
        assertEquals(before, rules("iptables"));
        assertEquals(before6, rules("ip6tables"));
    }

    @Test
    void theChainGoesWhenTheRequestsEnd() throws Exception {
        var before = rules("iptables");
        start("any");
        assertEquals("ok", ask("192.0.2.2 22"));
        requests.close();
        assertTrue(rootHalf.waitFor(10, TimeUnit.SECONDS));
        assertEquals(1, rootHalf.exitValue());
        assertEquals(before, rules("iptables"));
    }

    @Test
    void whatAKilledRunLeftIsMadeAnewAndNotDoubled() throws Exception {
        start("any");
        assertEquals("ok", ask("192.0.2.2 22"));
        lab.mustOn("server", "iptables", "-I", "INPUT", "-j", "KNOCKKNOCK");
        rootHalf.destroyForcibly().waitFor();
        start("any");
        assertEquals(1, rules("iptables").lines().filter("-A INPUT -j KNOCKKNOCK"::equals).count());
        assertEquals(1, rules("iptables").lines().filter(rule -> rule.startsWith("-A KNOCKKNOCK")).count());
    }

    @Test
    void allButOneHostAndOneAllowedPortIsRefusedWithAnAnswer() throws Exception {
        start("22,443");
        for (var bad : List.of("", " ", "22", "192.0.2.2", "192.0.2.2 ", " 22", "192.0.2.2  22", "192.0.2.2 22 ", "192.0.2.2 22 x",
                "192.0.2.2\t22", "192.0.2.2 0", "192.0.2.2 65536", "192.0.2.2 022", "192.0.2.2 +22", "192.0.2.2 22,443",
                "192.0.2.2 22:443", "192.0.2.2 23", "192.0.2.2 99999999999", "0.0.0.0 22", "0.0.0.0/0 22", "192.0.2.0/24 22",
                "192.0.2.2-192.0.2.9 22", "255.255.255.255 22", "224.0.0.1 22", "localhost 22", "example.org 22", "192.0.2 22",
                "3221225986 22", "0xc0000202 22", "192.0.2.02 22", "-j 22", "--seconds 22", "/ 22", "* 22", "! 22", "+192.0.2.2 22",
                ":: 22", "::/0 22", "ff02::1 22", "ff02:0:0:0:0:0:0:1 22", "0:0:0:0:0:0:0:0 22", "2001:db8::2 22", "[2001:db8::2] 22",
                "2001:DB8:0:0:0:0:0:2 22", "::ffff:192.0.2.2 22", "fe80:0:0:0:0:0:0:1%kk0 22", "fe80:0:0:0:0:0:0:1%2 22",
                "192.0.2.2 22\r", "192.0.2.2 22;id", "192.0.2.2 $(id)", "\0 22", "192.0.2.2\0 22", "x".repeat(1_000_000))) {
            assertTrue(ask(bad).startsWith("error: "), bad);
        }
        assertTrue(rootHalf.isAlive());
        assertEquals(1, rules("iptables").lines().filter(rule -> rule.startsWith("-A KNOCKKNOCK")).count());
        assertEquals("ok", ask("192.0.2.2 22"));
        assertEquals("ok", ask("2001:db8:0:0:0:0:0:2 443"));
    }

    @Test
    void anOpenedPortHasEightRulesHoweverOftenItIsOpened() throws Exception {
        start("any");
        for (int i = 0; i < 100; i++) {
            assertEquals("ok", ask("192.0.2." + i % 9 + " 22"));
        }
        for (var tool : List.of("iptables", "ip6tables")) {
            var opening = rules(tool).lines().filter(rule -> rule.contains("--dport 22 ")).toList();
            assertEquals(8, opening.size(), tool);
            assertTrue(opening.getFirst().matches("-A KNOCKKNOCK -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN"
                    + " -m conntrack --ctstate NEW -m recent --rcheck --seconds 3 --name knock22-0 .*"
                    + " -m recent --remove --name knock22-0 .* -j ACCEPT"), opening.getFirst());
        }
    }

    @Test
    void aHundredThousandRequestsAtOnceCostNeitherRulesNorMemory() throws Exception {
        start("22,443");
        var writer = Thread.startVirtualThread(() -> {
            try {
                for (int i = 0; i < 100_000; i++) {
                    requests.write(switch (i % 4) {
                        case 0 -> "10." + i % 250 + "." + i / 400 + ".1 22\n";
                        case 1 -> "2001:db8:0:0:0:0:0:" + Integer.toHexString(1 + i % 60_000) + " 443\n";
                        case 2 -> "10.0.0.1 80\n";
                        default -> "x".repeat(i % 5000) + "\n";
                    });
                }
                requests.flush();
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        });
        int opened = 0;
        for (int i = 0; i < 100_000; i++) {
            var answer = answers.readLine();
            assertTrue(answer.equals("ok") || answer.startsWith("error: "), answer);
            opened += answer.equals("ok") ? 1 : 0;
        }
        writer.join();
        assertEquals(50_000, opened);
        for (var tool : List.of("iptables", "ip6tables")) {
            assertEquals(1 + 2 * 8, rules(tool).lines().filter(rule -> rule.startsWith("-A KNOCKKNOCK")).count(), tool);
        }
        var resident = Pattern.compile("VmRSS:\\s+(\\d+)").matcher(Files.readString(Path.of("/proc/" + rootHalf.pid() + "/status")));
        assertTrue(resident.find() && Long.parseLong(resident.group(1)) < 120_000, resident.group());
    }

    @Test
    void itLoadsNoClassButTheJdksAndItsOwn() throws Exception {
        var log = lab.work.resolve("classes");
        start("any", "-Xlog:class+load:file=" + log);
        assertEquals("ok", ask("192.0.2.2 22"));
        assertTrue(ask("x").startsWith("error: "));
        rootHalf.destroy();
        rootHalf.waitFor();
        var foreign = Files.readAllLines(log).stream().filter(line -> line.contains(" source: "))
                .filter(line -> !line.contains("source: jrt:/") && !line.contains("source: shared objects file")
                        && !line.contains("source: __") && !line.matches(".*source: (java|jdk|sun)\\..*"))
                .toList();
        assertTrue(foreign.stream().anyMatch(line -> line.contains(" KnockknockFirewall source: file:")));
        assertTrue(foreign.stream().allMatch(line -> line.contains(" KnockknockFirewall")), foreign.toString());
    }
}
