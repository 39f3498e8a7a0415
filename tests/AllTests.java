///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN AllTests
//DEPS org.junit.jupiter:junit-jupiter:5.14.4
//DEPS org.junit.platform:junit-platform-console:1.14.4
//SOURCES AddressTest.java
//SOURCES AddressWireTest.java
//SOURCES BadInputTest.java
//SOURCES Bench.java
//SOURCES BoundTest.java
//SOURCES CheckTest.java
//SOURCES CodecTest.java
//SOURCES DocTest.java
//SOURCES ElsewhereTest.java
//SOURCES EndToEndTest.java
//SOURCES FaultTest.java
//SOURCES FirewallHalfTest.java
//SOURCES FirewallTest.java
//SOURCES FuzzTest.java
//SOURCES HostRulesTest.java
//SOURCES InFirewall.java
//SOURCES InFirewallHalf.java
//SOURCES InLab.java
//SOURCES InLogFile.java
//SOURCES InProxy.java
//SOURCES InRoutedNetwork.java
//SOURCES Install.java
//SOURCES Installed.java
//SOURCES Lab.java
//SOURCES LoadTest.java
//SOURCES LogLineTest.java
//SOURCES Measures.java
//SOURCES NetworkTest.java
//SOURCES OpeningsTest.java
//SOURCES Plainest.java
//SOURCES PrivilegeTest.java
//SOURCES ProfileTest.java
//SOURCES ProxyBench.java
//SOURCES ProxyTest.java
//SOURCES RootTest.java
//SOURCES ServiceTest.java
//SOURCES ShareTest.java
//SOURCES SocksTest.java
//SOURCES Sshd.java
//SOURCES SystemdTest.java
//SOURCES Traces.java
//SOURCES WireTest.java
//SOURCES ../lib/Addresses.java
//SOURCES ../lib/Carrier.java
//SOURCES ../lib/Cli.java
//SOURCES ../lib/Config.java
//SOURCES ../lib/Counter.java
//SOURCES ../lib/Failure.java
//SOURCES ../lib/KnockCodec.java
//SOURCES ../lib/Libc.java
//SOURCES ../lib/Ports.java
//SOURCES ../lib/Profile.java
//SOURCES ../lib/client/CounterLock.java
//SOURCES ../lib/client/Credentials.java
//SOURCES ../lib/client/KnockPacket.java
//SOURCES ../lib/client/KnockSender.java
//SOURCES ../lib/client/NetRaw.java
//SOURCES ../lib/client/RawSocket.java
//SOURCES ../lib/server/HostRules.java
//SOURCES ../lib/server/KnockWindow.java
//SOURCES ../lib/server/LogLine.java
//SOURCES ../lib/server/Netfilter.java

import java.util.List;

import org.junit.platform.console.ConsoleLauncher;

/**
 * Runs the tests with JUnit's console launcher, or the benchmark; tests/run calls this, as root in
 * its own namespaces.
 */
final class AllTests {
    static void main(String[] args) throws Exception {
        var arguments = List.of(args);
        if (!arguments.isEmpty() && arguments.getFirst().equals("bench")) {
            Bench.run(arguments.subList(1, args.length));
        } else {
            ConsoleLauncher.main(args);
        }
    }
}
