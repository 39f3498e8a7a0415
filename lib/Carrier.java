/**
 * What carries a knock (PROTOCOL.md 4): a SYN as the kernel's own, one as the original knockknock
 * sends it, or the address that an ordinary connection goes to.
 */
enum Carrier { COVER, CLASSIC, ADDRESS }
