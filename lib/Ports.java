import java.util.BitSet;
import java.util.stream.Collectors;

/** Ports that may be opened. Each is TCP's, or UDP's if it is written as 51820/udp. */
record Ports(BitSet tcp, BitSet udp) {
    static Ports none() {
        return new Ports(new BitSet(), new BitSet());
    }

    /** Reads a list such as "22, 51820/udp". */
    static Ports list(String text) {
        var ports = none();
        for (var entry : text.split(",", -1)) {
            var one = none();
            var port = entry.strip();
            (port.endsWith("/udp") ? one.udp : one.tcp).set(number(port.replaceFirst("/udp$", "")));
            ports.add(one);
        }
        return ports;
    }

    /** A port in plain decimal, 1 to 65535. */
    static int number(String text) {
        if (!text.matches("[1-9][0-9]{0,4}") || Integer.parseInt(text) > 65535) {
            throw new Failure("'" + text + "' is not a port: give a number from 1 to 65535");
        }
        return Integer.parseInt(text);
    }

    /** Adds others. A knock asks for a number alone, so that no number can be TCP's and UDP's. */
    void add(Ports others) {
        tcp.or(others.tcp);
        udp.or(others.udp);
        if (tcp.intersects(udp)) {
            throw new Failure("open_ports: port " + tcp.stream().filter(udp::get).findFirst()
                    .getAsInt() + " is TCP's and UDP's, but one server can open only one of them");
        }
    }

    /** Their numbers alone. */
    BitSet numbers() {
        var numbers = (BitSet) tcp.clone();
        numbers.or(udp);
        return numbers;
    }

    /** What a port is called in a list. */
    String name(int port) {
        return udp.get(port) ? port + "/udp" : "" + port;
    }

    /** The list, as it is read. */
    @Override
    public String toString() {
        return numbers().stream().mapToObj(this::name).collect(Collectors.joining(","));
    }
}
