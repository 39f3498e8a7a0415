import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;

/** Tests that each have two hosts of their own. */
abstract class InLab {
    @AutoClose
    Lab lab;

    @BeforeEach
    void makeLab() throws Exception {
        lab = new Lab();
    }
}
