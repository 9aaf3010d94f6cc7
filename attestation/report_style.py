"""The style sheet of the report's page: colours by the reader's scheme, one column on a phone."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--ink:#1d1f21;--dim:#5d6469;--line:#d9dcd8;--good:#17683b;
--goodbg:#e4f3e9;--bad:#a11d1d;--badbg:#fbe7e6;--care:#7a5200;--carebg:#fbf0d8;--bar:#8aa4bd;--leaf:#2f6ea5}
@media (prefers-color-scheme:dark){:root{--bg:#15181a;--card:#1d2124;--ink:#e6e8e8;--dim:#9da5aa;--line:#343a3e;
--good:#7fd4a0;--goodbg:#143323;--bad:#ff9d97;--badbg:#421a1a;--care:#f0c674;--carebg:#3a2d10;--bar:#50697f;
--leaf:#7db4e6}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:0;line-height:1.2;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .6rem}
section,header{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:0 0 1rem}
header p{margin:.5rem 0 0}
header.good{background:var(--goodbg);border-color:var(--good)}
header.good h1{color:var(--good)}
header.bad{background:var(--badbg);border-color:var(--bad)}
header.bad h1{color:var(--bad)}
header.care{background:var(--carebg);border-color:var(--care)}
header.care h1{color:var(--care)}
.banner{font-weight:700;letter-spacing:.02em;margin:0 0 .5rem}
ul{margin:0;padding-left:1.2rem}
li{margin:.3rem 0}
.dim{color:var(--dim);font-size:.9rem}
code,.hex{font-family:ui-monospace,monospace;font-size:.8rem;overflow-wrap:anywhere}
.row{border-top:1px solid var(--line);padding:.55rem 0}
.row:first-of-type{border-top:0}
.row>div:first-child{display:flex;gap:.6rem;flex-wrap:wrap;align-items:baseline}
.tag{font-size:.8rem;font-weight:600;padding:.05rem .5rem;border-radius:1rem;border:1px solid currentColor}
.tag.equal{color:var(--good)}
.tag.differs,.tag.missing{color:var(--bad)}
.wanted{border-left:3px solid var(--bad);padding-left:.6rem;margin:.3rem 0}
.link{margin:.7rem 0}
.axis{position:relative;height:1.1rem;background:var(--bg);border:1px solid var(--line);border-radius:.3rem;
margin:.25rem 0}
.axis b{position:absolute;top:.15rem;bottom:.15rem;background:var(--bar);border-radius:.2rem}
.axis b.leaf{background:var(--leaf)}
.axis i{position:absolute;top:-.2rem;bottom:-.2rem;left:50%;width:2px;background:var(--bad)}
.ticks{position:relative;height:1.2rem;font-size:.72rem;color:var(--dim)}
.ticks span{position:absolute;transform:translateX(-50%);white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0}
dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere}
@media (max-width:36rem){main{padding:.5rem}dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}.ticks .far{
display:none}}
@media print{body{background:#fff}section,header{break-inside:avoid}}
"""
