// Texts of a page that stand out less than WCAG 2.1 AA asks for, 4.5 to 1; what is disabled may.
() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  for (const each of document.querySelectorAll("body *")) {
    const says = [...each.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
    if (!says || !each.checkVisibility() || each.disabled || each.ariaDisabled === "true") continue;
    let ground = each;
    while (ground && numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const style = getComputedStyle(each);
    const text = light(each instanceof SVGElement ? style.fill : style.color);
    const under = ground ? light(getComputedStyle(ground).backgroundColor) : 1;
    const contrast = (Math.max(text, under) + 0.05) / (Math.min(text, under) + 0.05);
    if (contrast < 4.5) faint.push(`${each.tagName} ${each.textContent.trim()}: ${contrast.toFixed(2)}`);
  }
  return faint;
}
